//! Types that point to what they hold: boxes, vectors, maps, sets.
//!
//! Promises: they are never fixed. What they hold is described as it is laid out where it stands,
//! with offsets from the start of one element or entry.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::mem::offset_of;

use rkyv::Archive;
use rkyv::collections::util::Entry;

use super::{Describe, Walk};

impl<T: Describe> Describe for Box<T> {
    const FIXED: bool = false;

    fn kind() -> String {
        format!("Box<{}>", T::kind())
    }

    fn describe(walk: &mut Walk) {
        walk.pointee::<T>("*", 0);
    }
}

impl<T: Describe> Describe for Box<[T]> {
    const FIXED: bool = false;

    fn kind() -> String {
        format!("Box<[{}]>", T::kind())
    }

    fn describe(walk: &mut Walk) {
        walk.pointee::<T>("[]", 0);
    }
}

macro_rules! sequence {
    ($($name:ident),*) => {$(
        impl<T: Describe> Describe for $name<T>
        where
            Self: Archive,
        {
            const FIXED: bool = false;

            fn kind() -> String {
                format!(concat!(stringify!($name), "<{}>"), T::kind())
            }

            fn describe(walk: &mut Walk) {
                walk.pointee::<T>("[]", 0);
            }
        }
    )*};
}

sequence!(Vec, VecDeque, BTreeSet);

impl<T: Describe, S> Describe for HashSet<T, S>
where
    Self: Archive,
{
    const FIXED: bool = false;

    fn kind() -> String {
        format!("HashSet<{}>", T::kind())
    }

    fn describe(walk: &mut Walk) {
        walk.pointee::<T>("[]", 0);
    }
}

impl<K: Describe, V: Describe, S> Describe for HashMap<K, V, S>
where
    Self: Archive,
{
    const FIXED: bool = false;

    fn kind() -> String {
        format!("HashMap<{}, {}>", K::kind(), V::kind())
    }

    fn describe(walk: &mut Walk) {
        walk.pointee::<K>("[key]", offset_of!(Entry<K::Archived, V::Archived>, key));
        walk.pointee::<V>(
            "[value]",
            offset_of!(Entry<K::Archived, V::Archived>, value),
        );
    }
}

impl<K: Describe, V: Describe> Describe for BTreeMap<K, V>
where
    Self: Archive,
{
    const FIXED: bool = false;

    fn kind() -> String {
        format!("BTreeMap<{}, {}>", K::kind(), V::kind())
    }

    fn describe(walk: &mut Walk) {
        // A node keeps its keys and its values apart: both are told from their own start.
        walk.pointee::<K>("[key]", 0);
        walk.pointee::<V>("[value]", 0);
    }
}
