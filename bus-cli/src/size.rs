//! Sizes on the command line.

/// Reads a size in bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let size = bus_core::parse_size(text);
    size.ok_or_else(|| "use a number of bytes such as 65536, 64K or 1M".into())
}
