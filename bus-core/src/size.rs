//! Sizes as people write them: `4096`, `64K`, `8M`, `1G`, in powers of 1024.

/// Reads a size in bytes. None where it is none, or more than 2^64 - 1.
///
/// ```
/// use bus_core::parse_size;
/// assert_eq!(parse_size("64K"), Some(65_536));
/// assert_eq!(parse_size("64KB"), None);
/// ```
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_multiply_and_nonsense_is_refused() {
        assert_eq!(parse_size("0"), Some(0));
        assert_eq!(parse_size("8M"), Some(8 << 20));
        assert_eq!(parse_size("1g"), Some(1 << 30));
        for bad in ["", "K", "-1", "1.5M", "64KB", "99999999999G", "é"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }
}
