//! Kinds of delivery on the command line.

use bus_client::Delivery;

/// Reads `wait`, `fail`, `lossy`, or `evict:` with a time in `us`, `ms` or `s`.
pub fn parse(text: &str) -> Result<Delivery, String> {
    Delivery::parse(text).ok_or_else(|| {
        "use wait, fail, lossy, or evict: with a time as in evict:50ms (us, ms or s)".into()
    })
}
