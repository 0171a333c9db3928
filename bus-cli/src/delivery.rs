//! Kinds of delivery on the command line.

use std::time::Duration;

use bus_client::Delivery;

/// Reads `wait`, `fail`, `lossy`, or `evict:` with a time in `us`, `ms` or `s`.
pub fn parse(text: &str) -> Result<Delivery, String> {
    match text {
        "wait" => return Ok(Delivery::Wait),
        "fail" => return Ok(Delivery::Fail),
        "lossy" => return Ok(Delivery::Lossy),
        _ => {}
    }
    let time = text.strip_prefix("evict:").and_then(time);
    time.map(Delivery::evict_after).ok_or_else(|| {
        "use wait, fail, lossy, or evict: with a time as in evict:50ms (us, ms or s)".into()
    })
}

fn time(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number = number.parse().ok().filter(|number| *number > 0)?;
    match unit {
        "us" => Some(Duration::from_micros(number)),
        "ms" => Some(Duration::from_millis(number)),
        "s" => Some(Duration::from_secs(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_is_read_and_nothing_else() {
        assert_eq!(parse("lossy"), Ok(Delivery::Lossy));
        assert_eq!(
            parse("evict:50ms"),
            Ok(Delivery::Evict { after_us: 50_000 })
        );
        assert_eq!(
            parse("evict:2s"),
            Ok(Delivery::Evict {
                after_us: 2_000_000
            })
        );
        for bad in [
            "",
            "evict",
            "evict:",
            "evict:50",
            "evict:0ms",
            "evict:-1s",
            "evict:9x",
            "Lossy",
        ] {
            assert!(parse(bad).unwrap_err().contains("evict:50ms"), "{bad}");
        }
    }
}
