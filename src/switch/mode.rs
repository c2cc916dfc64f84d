// SPDX-License-Identifier: GPL-2.0

//! Whether a vCPU's reads are passed through, and the TSC ratio that helps to decide it.

use super::hardware::Pair;

/// How guest reads are served. The guest sees the same semantics in both modes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// The pair is in the MSRs while the vCPU is live: **no-exit**.
    Passthrough,
    /// Reads exit and are computed; nothing of the guest's is ever written to the MSRs.
    Intercepted(Reason),
}

/// Why passing reads through would be wrong. The first that applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The host has a CPU whose MPERF does not tick with its TSC.
    Host,
    /// KVM has a reason of its own, such as an MSR filter.
    Kvm,
    /// The guest's TSC frequency is not the host's.
    TscRatio,
    /// A value may overflow in the MSRs.
    HighValue,
}

/// Guest values from here on are never loaded. When either MSR overflows the CPU resets both to
/// zero (SDM, "Hardware Coordination Feedback"), and the host pair would be lost with them.
/// Below, the counters are decades away from it.
const TOO_HIGH: u64 = 1 << 62;

/// Guest TSC ticks per host TSC tick, as the hardware's TSC multiplier has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TscRatio {
    multiplier: u64,
    fraction_bits: u8,
}

impl TscRatio {
    pub(super) const ONE: Self = Self {
        multiplier: 1,
        fraction_bits: 0,
    };

    /// A ratio of `multiplier` / 2^`fraction_bits`.
    pub(super) fn new(multiplier: u64, fraction_bits: u8) -> Self {
        Self {
            multiplier,
            fraction_bits: fraction_bits & 63,
        }
    }

    fn is_one(self) -> bool {
        self.multiplier == 1u64.wrapping_shl(u32::from(self.fraction_bits))
    }

    /// Guest ticks in `host` ticks. `carry` keeps the fraction of a tick from call to call.
    pub(super) fn scale(self, host: u64, carry: &mut u64) -> u64 {
        let product = u128::from(host)
            .wrapping_mul(u128::from(self.multiplier))
            .wrapping_add(u128::from(*carry));
        let bits = u32::from(self.fraction_bits);
        *carry = product as u64 & 1u64.wrapping_shl(bits).wrapping_sub(1);
        product.wrapping_shr(bits) as u64
    }
}

impl Mode {
    /// The mode for a guest value of `pair`. `permitted`: the host allows to pass reads through.
    /// `asked`: KVM wants to intercept them.
    pub(super) fn choose(permitted: bool, asked: bool, ratio: TscRatio, pair: Pair) -> Self {
        if !permitted {
            Self::Intercepted(Reason::Host)
        } else if asked {
            Self::Intercepted(Reason::Kvm)
        } else if !ratio.is_one() {
            Self::Intercepted(Reason::TscRatio)
        } else if (pair.aperf | pair.mperf) >= TOO_HIGH {
            Self::Intercepted(Reason::HighValue)
        } else {
            Self::Passthrough
        }
    }
}
