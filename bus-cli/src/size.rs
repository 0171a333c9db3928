//! Sizes on the command line: `4096`, `64K`, `8M`, `1G`, in powers of 1024.

/// Reads a size in bytes.
pub fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let count = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(unit));
    count.ok_or_else(|| "use a number of bytes such as 65536, 64K or 1M".into())
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn units_multiply_and_nonsense_is_refused() {
        assert_eq!(bytes("0"), Ok(0));
        assert_eq!(bytes("64K"), Ok(65_536));
        assert_eq!(bytes("1g"), Ok(1 << 30));
        for bad in ["", "K", "-1", "1.5M", "64KB", "99999999999G", "é"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
    }
}
