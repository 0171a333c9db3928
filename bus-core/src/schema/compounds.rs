//! Types that hold others in place: options, results, arrays, tuples, ranges.
//!
//! Promises: they are fixed when all that they hold is.

use std::mem::offset_of;
use std::ops::Range;

use super::{Describe, Walk};

impl<T: Describe> Describe for Option<T> {
    const FIXED: bool = T::FIXED;

    fn kind() -> String {
        format!("Option<{}>", T::kind())
    }

    fn describe(walk: &mut Walk) {
        // The archived option is a `repr(u8)` enum: a tag of one byte, then the value.
        walk.inner::<T>("?", align_of::<T::Archived>());
    }
}

impl<T: Describe, E: Describe> Describe for Result<T, E> {
    const FIXED: bool = T::FIXED && E::FIXED;

    fn kind() -> String {
        format!("Result<{}, {}>", T::kind(), E::kind())
    }

    fn describe(walk: &mut Walk) {
        walk.variant("Ok", 0, |fields| fields.field::<T>("0"));
        walk.variant("Err", 1, |fields| fields.field::<E>("0"));
    }
}

impl<T: Describe, const N: usize> Describe for [T; N] {
    const FIXED: bool = T::FIXED;
    const TAMPER_PROOF: bool = T::TAMPER_PROOF;

    fn kind() -> String {
        format!("[{}; {N}]", T::kind())
    }

    fn describe(walk: &mut Walk) {
        walk.inner::<T>("[]", 0);
    }
}

impl<T: Describe> Describe for Range<T> {
    const FIXED: bool = T::FIXED;

    fn kind() -> String {
        format!("Range<{}>", T::kind())
    }

    fn describe(walk: &mut Walk) {
        walk.field::<T>("start", offset_of!(Self::Archived, start));
        walk.field::<T>("end", offset_of!(Self::Archived, end));
    }
}

macro_rules! tuple {
    ($($part:ident $index:tt),*) => {
        impl<$($part: Describe),*> Describe for ($($part,)*) {
            const FIXED: bool = true $(&& $part::FIXED)*;
            const TAMPER_PROOF: bool = true $(&& $part::TAMPER_PROOF)*;

            fn kind() -> String {
                format!("({})", [$($part::kind()),*].join(", "))
            }

            fn describe(walk: &mut Walk) {
                $(walk.field::<$part>(stringify!($index), offset_of!(Self::Archived, $index));)*
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
tuple!(A 0, B 1, C 2, D 3, E 4);
tuple!(A 0, B 1, C 2, D 3, E 4, F 5);
