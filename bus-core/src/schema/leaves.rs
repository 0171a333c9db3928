//! Types that say it all with their name: numbers, text, addresses.
//!
//! Promises: only types whose archived form rkyv defines for every platform alike.

use std::marker::PhantomData;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::num::{
    NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize, NonZeroU8,
    NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize,
};
use std::time::Duration;

use super::Describe;

macro_rules! leaf {
    ($fixed:literal, $any_bits:literal: $($type:ty),* $(,)?) => {$(
        impl Describe for $type {
            const FIXED: bool = $fixed;
            const TAMPER_PROOF: bool = $any_bits;

            fn kind() -> String {
                stringify!($type).to_owned()
            }
        }
    )*};
}

leaf!(true, true: (), f32, f64);
leaf!(true, false: bool, char);
leaf!(true, true: i8, i16, i32, i64, i128, isize);
leaf!(true, true: u8, u16, u32, u64, u128, usize);
leaf!(true, false: NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize);
leaf!(true, false: NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize);
leaf!(true, true: Ipv4Addr, Ipv6Addr);
// An archived duration has fewer than 10^9 nanoseconds, an address one of two tags.
leaf!(true, false: Duration, IpAddr, SocketAddrV4, SocketAddrV6, SocketAddr);
leaf!(false, false: String, Box<str>);

impl<T: ?Sized> Describe for PhantomData<T> {
    const FIXED: bool = true;
    const TAMPER_PROOF: bool = true;

    fn kind() -> String {
        "PhantomData".to_owned()
    }
}
