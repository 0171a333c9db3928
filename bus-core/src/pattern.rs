//! Patterns of topic names: checked once, at the edge, as names are.
//!
//! ```text
//!  market/*        market/ticks, market/trades        not market, not market/eu/ticks
//!  market/**       all of these                       not markets
//!  **/ticks        ticks, market/ticks, a/b/ticks     not ticks/a
//! ```
//! Promises: a match takes time that is bounded by the lengths of both multiplied.

use std::fmt;

use crate::name::{MAX_LEN, bad_character, is_part};
use crate::{Error, Result, TopicName};

/// Stands for any one part.
const ONE: &str = "*";
/// Stands for any number of parts, also none.
const ANY: &str = "**";

/// A topic's name of which some parts are left open: `*` stands for any one part, `**` for any number of parts, also none.
///
/// ```
/// use bus_core::{Pattern, TopicName};
/// let pattern = Pattern::new("market/**")?;
/// assert!(pattern.matches(&TopicName::new("market/eu/ticks")?));
/// assert!(pattern.matches(&TopicName::new("market")?));
/// assert!(Pattern::new("market/t*").is_err());
/// # Ok::<(), bus_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(String);

impl Pattern {
    /// Checks a pattern: 1 to 127 bytes, parts as in a [`TopicName`], or `*`, or `**`. A name is a pattern that only it matches.
    ///
    /// # Errors
    /// [`Error::Pattern`] says which rule it breaks.
    pub fn new(pattern: impl Into<String>) -> Result<Self> {
        let pattern = pattern.into();
        let wild = |part: &str| part == ONE || part == ANY;
        let why = if pattern.is_empty() {
            "it is empty".to_owned()
        } else if pattern.len() > MAX_LEN {
            "it is longer than 127 bytes".into()
        } else if pattern.split('/').any(str::is_empty) {
            "it has an empty part".into()
        } else if let Some(part) = pattern
            .split('/')
            .find(|part| !is_part(part) && !wild(part))
        {
            if part.contains('*') {
                "a '*' stands for a whole part".into()
            } else {
                bad_character(part)
            }
        } else {
            return Ok(Self(pattern));
        };
        Err(Error::Pattern {
            pattern: pattern.chars().take(MAX_LEN + 1).collect(),
            why,
        })
    }

    /// The pattern as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a topic of this name is meant.
    pub fn matches(&self, topic: &TopicName) -> bool {
        let pattern: Vec<_> = self.0.split('/').collect();
        let name: Vec<_> = topic.as_str().split('/').collect();
        let (mut p, mut n) = (0, 0);
        // The last `**`, and the part of the name up to which it reaches: where the rest does not match, one further.
        let mut any = None;
        while n < name.len() {
            match pattern.get(p) {
                Some(&ANY) => {
                    any = Some((p, n));
                    p += 1;
                    continue;
                }
                Some(&part) if part == ONE || part == name[n] => {
                    (p, n) = (p + 1, n + 1);
                    continue;
                }
                _ => {}
            }
            let Some((at, reach)) = any else {
                return false;
            };
            any = Some((at, reach + 1));
            (p, n) = (at + 1, reach + 1);
        }
        pattern[p..].iter().all(|part| *part == ANY)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        let pattern = Pattern::new(pattern).unwrap();
        pattern.matches(&TopicName::new(name).unwrap())
    }

    #[test]
    fn a_star_is_one_part_and_two_are_any_number() {
        for (pattern, yes, no) in [
            ("a/b", vec!["a/b"], vec!["a", "a/b/c", "a/c", "b/a"]),
            ("*", vec!["a", "ab.c"], vec!["a/b"]),
            ("a/*", vec!["a/b", "a/a"], vec!["a", "a/b/c", "b/a", "ab/c"]),
            ("*/b", vec!["a/b", "b/b"], vec!["b", "a/b/b"]),
            ("**", vec!["a", "a/b", "a/b/c"], vec![]),
            ("a/**", vec!["a", "a/b", "a/b/c"], vec!["b", "b/a", "ab"]),
            ("**/c", vec!["c", "a/c", "a/b/c", "c/c"], vec!["c/a", "a"]),
            (
                "a/**/c",
                vec!["a/c", "a/b/c", "a/c/c", "a/b/b/c"],
                vec!["a", "c", "a/c/b"],
            ),
            ("a/**/*", vec!["a/b", "a/b/c"], vec!["a"]),
            (
                "**/b/**",
                vec!["b", "a/b", "b/a", "a/b/a"],
                vec!["a", "a/a"],
            ),
            ("**/**", vec!["a", "a/b"], vec![]),
        ] {
            for (name, expected) in yes
                .iter()
                .map(|y| (y, true))
                .chain(no.iter().map(|n| (n, false)))
            {
                assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
            }
        }
    }

    #[test]
    fn bad_patterns_are_refused_with_the_rule_they_break() {
        for (pattern, rule) in [
            ("", "empty"),
            ("/*", "empty part"),
            ("*/", "empty part"),
            ("a//*", "empty part"),
            ("a*", "whole part"),
            ("***", "whole part"),
            ("a/*b/c", "whole part"),
            ("A/*", "character"),
            ("a?", "character"),
            (&"*/".repeat(64), "longer"),
        ] {
            let error = Pattern::new(pattern).unwrap_err().to_string();
            assert!(error.contains(rule), "{pattern:?}: {error}");
        }
        assert!(Pattern::new("*/".repeat(63) + "*").is_ok());
    }

    /// As the rules are written, with no thought of time.
    fn plainly(pattern: &[&str], name: &[&str]) -> bool {
        match (pattern, name) {
            ([], []) => true,
            ([ANY, rest @ ..], _) => (0..=name.len()).any(|skip| plainly(rest, &name[skip..])),
            ([part, rest @ ..], [first, others @ ..]) => {
                (*part == ONE || part == first) && plainly(rest, others)
            }
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

        #[test]
        fn it_matches_what_the_rules_say(
            pattern in prop::collection::vec(prop::sample::select(vec!["a", "b", "*", "**"]), 1..7),
            name in prop::collection::vec(prop::sample::select(vec!["a", "b"]), 1..8),
        ) {
            let expected = plainly(&pattern, &name);
            prop_assert_eq!(matches(&pattern.join("/"), &name.join("/")), expected);
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = format!("{}b", "**/".repeat(40));
        assert!(!matches(&pattern, &["a"; 63].join("/")));
    }
}
