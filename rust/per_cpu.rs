// SPDX-License-Identifier: GPL-2.0

//! One object per CPU.
//!
//! C header: [`include/linux/percpu-defs.h`](srctree/include/linux/percpu-defs.h)

use core::arch::asm;

use kernel::{
    cpu::{
        nr_cpu_ids,
        CpuId, //
    },
    cpumask::Cpumask, //
};

use crate::{
    bindings,
    irq::IrqsOff,
    user_return::UserReturn,
    Backend, //
};

/// A static variable of which each CPU has a copy of its own; declare it with [`crate::per_cpu!`].
///
/// `T` is [`Sync`] because an NMI may look at it while the code that it interrupted does.
///
/// # Invariants
///
/// The object is a static in the section `.data..percpu`.
#[repr(transparent)]
pub struct PerCpu<T: Sync>(T);

impl<T: Sync> PerCpu<T> {
    /// # Safety
    ///
    /// To be used by [`crate::per_cpu!`] only.
    #[doc(hidden)]
    pub const unsafe fn new(initial: T) -> Self {
        // INVARIANT: The macro places the object.
        Self(initial)
    }

    /// This CPU's copy, for as long as the task cannot leave the CPU.
    #[inline(always)]
    pub fn here<'a>(&'static self, _: &'a IrqsOff) -> &'a T {
        let mut address = &raw const self.0 as usize;
        // SAFETY: `this_cpu_off` is what the kernel adds to the address of a per-CPU variable to
        // get at this CPU's copy (arch_raw_cpu_ptr()).
        unsafe {
            asm!(
                "add {address}, qword ptr gs:[rip + {offset}]",
                address = inout(reg) address,
                offset = sym bindings::this_cpu_off,
                options(nostack, readonly),
            );
        }
        // SAFETY: By the type invariant there is such a copy, initialised from the static when
        // the module was loaded and freed when it goes. `T` is `Sync`, so it may be shared.
        unsafe { &*(address as *const T) }
    }

    /// The copy of each CPU that may ever be online, with the CPU's number.
    pub fn all(&'static self) -> impl Iterator<Item = (u32, &'static T)> {
        (0..nr_cpu_ids()).filter_map(|cpu| {
            // SAFETY: `cpu` is a valid number, and the mask constant since boot.
            let copy = unsafe {
                let id = CpuId::from_u32_unchecked(cpu);
                let possible = Cpumask::from_raw(&raw const bindings::__cpu_possible_mask);
                let offset = possible
                    .test(id)
                    .then(|| bindings::__per_cpu_offset[cpu as usize])?;
                // As `here`, by per_cpu_ptr().
                &*((&raw const self.0 as usize).wrapping_add(offset) as *const T)
            };
            Some((cpu, copy))
        })
    }
}

/// What one CPU needs: the backend's state, and the notifier that undoes it.
pub struct CpuSlot<B: Backend> {
    /// The backend's state. On another CPU, to be looked at only.
    pub state: B::Cpu,
    pub(crate) user_return: UserReturn,
}

impl<B: Backend> CpuSlot<B> {
    /// A CPU in the backend's initial `state`.
    pub const fn new(state: B::Cpu) -> Self {
        Self {
            state,
            user_return: UserReturn::new(),
        }
    }
}

/// Declares a [`PerCpu`] static.
#[macro_export]
macro_rules! per_cpu {
    ($(#[$meta:meta])* $vis:vis static $name:ident: $type:ty = $initial:expr;) => {
        $(#[$meta])*
        #[link_section = ".data..percpu"]
        $vis static $name: $crate::PerCpu<$type> =
            // SAFETY: The object is a static in the section that the type asks for.
            unsafe { $crate::PerCpu::new($initial) };
    };
}
