// SPDX-License-Identifier: GPL-2.0

//! Interruption of the logic between any two of its steps.
//!
//! The state of a CPU is shared with nobody but NMI handlers of the same CPU, which see their
//! CPU's own loads and stores in program order. So no reordering needs to be explored, as loom
//! does for threads, but every point between two of them, and between two accesses to the
//! counters. The atomics here are core's, with such a point in front of each access.

use std::cell::RefCell;

type Handler = Box<dyn FnMut()>;

thread_local! {
    static HANDLER: RefCell<Option<Handler>> = const { RefCell::new(None) };
}

/// An NMI may arrive here. There are none inside of its handler.
pub(crate) fn point() {
    let handler = HANDLER.with_borrow_mut(Option::take);
    if let Some(mut handler) = handler {
        handler();
        HANDLER.set(Some(handler));
    }
}

/// Calls `work`, and `handler` at each point in it.
pub(crate) fn at_each_point<R>(handler: impl FnMut() + 'static, work: impl FnOnce() -> R) -> R {
    HANDLER.set(Some(Box::new(handler)));
    let result = work();
    HANDLER.set(None);
    result
}

/// What the logic uses of [`core::sync::atomic`].
pub(crate) mod atomic {
    pub(crate) use core::sync::atomic::Ordering;

    macro_rules! atomic {
        ($name:ident: $value:ty) => {
            pub(crate) struct $name(core::sync::atomic::$name);

            impl $name {
                pub(crate) const fn new(value: $value) -> Self {
                    Self(core::sync::atomic::$name::new(value))
                }

                pub(crate) fn load(&self, order: Ordering) -> $value {
                    super::point();
                    self.0.load(order)
                }

                pub(crate) fn store(&self, value: $value, order: Ordering) {
                    super::point();
                    self.0.store(value, order);
                }
            }
        };
    }

    atomic!(AtomicBool: bool);
    atomic!(AtomicU8: u8);
    atomic!(AtomicU64: u64);
}
