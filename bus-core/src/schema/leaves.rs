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
    ($fixed:literal: $($type:ty),* $(,)?) => {$(
        impl Describe for $type {
            const FIXED: bool = $fixed;

            fn kind() -> String {
                stringify!($type).to_owned()
            }
        }
    )*};
}

leaf!(true: (), bool, char, f32, f64);
leaf!(true: i8, i16, i32, i64, i128, isize);
leaf!(true: u8, u16, u32, u64, u128, usize);
leaf!(true: NonZeroI8, NonZeroI16, NonZeroI32, NonZeroI64, NonZeroI128, NonZeroIsize);
leaf!(true: NonZeroU8, NonZeroU16, NonZeroU32, NonZeroU64, NonZeroU128, NonZeroUsize);
leaf!(true: Duration, Ipv4Addr, Ipv6Addr, IpAddr, SocketAddrV4, SocketAddrV6, SocketAddr);
leaf!(false: String, Box<str>);

impl<T: ?Sized> Describe for PhantomData<T> {
    const FIXED: bool = true;

    fn kind() -> String {
        "PhantomData".to_owned()
    }
}
