//! Names of topics and clients: checked once, at the edge; what holds a name holds a good one.

use std::fmt;

use crate::{Error, Result};

/// Longest name in bytes.
pub(crate) const MAX_LEN: usize = 127;

/// Whether this may stand between two `/`.
pub(crate) fn is_part(part: &str) -> bool {
    !part.is_empty() && part.chars().all(is_allowed)
}

fn is_allowed(character: char) -> bool {
    matches!(character, 'a'..='z' | '0'..='9' | '_' | '.' | '-')
}

/// Which character of a part breaks the rules, as a clause of a sentence. Empty if none does.
pub(crate) fn bad_character(part: &str) -> String {
    let bad = part.chars().find(|character| !is_allowed(*character));
    bad.map(|character| format!("the character {character:?} is not allowed"))
        .unwrap_or_default()
}

fn check(name: &str) -> Result<()> {
    let why = if name.is_empty() {
        "it is empty".into()
    } else if name.len() > MAX_LEN {
        "it is longer than 127 bytes".into()
    } else if name.split('/').any(str::is_empty) {
        "it has an empty part".into()
    } else if let Some(part) = name.split('/').find(|part| !is_part(part)) {
        bad_character(part)
    } else {
        return Ok(());
    };
    Err(Error::Name {
        name: name.chars().take(MAX_LEN + 1).collect(),
        why,
    })
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// Checks a name.
            ///
            /// # Errors
            /// [`Error::Name`] says which rule it breaks.
            pub fn new(name: impl Into<String>) -> Result<Self> {
                let name = name.into();
                check(&name)?;
                Ok(Self(name))
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// The name of a topic: 1 to 127 bytes of `[a-z0-9_.-]` in non-empty parts separated by `/`.
    ///
    /// ```
    /// use bus_core::TopicName;
    /// assert!(TopicName::new("market/ticks").is_ok());
    /// assert!(TopicName::new("market//ticks").is_err());
    /// ```
    TopicName
}

name! {
    /// The name under which a process connects; the same rules as for a [`TopicName`].
    ClientName
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_names_pass() {
        for name in ["a", "market/ticks", "a.b-c_d/0", &"x".repeat(127)] {
            assert_eq!(TopicName::new(name).unwrap().as_str(), name);
        }
    }

    #[test]
    fn bad_names_are_refused_with_the_rule_they_break() {
        for (name, rule) in [
            ("", "empty"),
            ("/a", "empty part"),
            ("a/", "empty part"),
            ("a//b", "empty part"),
            ("Feed", "the character 'F' is not allowed"),
            ("a b", "the character ' ' is not allowed"),
            ("market/ä", "the character 'ä' is not allowed"),
            ("a\0", "the character '\\0' is not allowed"),
            (&"x".repeat(128), "longer"),
        ] {
            let error = TopicName::new(name).unwrap_err().to_string();
            assert!(error.contains(rule), "{name:?}: {error}");
        }
    }
}
