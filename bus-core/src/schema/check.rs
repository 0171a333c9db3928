//! The limits of a schema, and the check of one that a peer sent.
//!
//! Promises: a schema that passed fits in a control message and is safe to show on a terminal.
//! Does not: judge whether the layout is one that rkyv would make. It is only ever compared.

use super::Schema;
use crate::Error;

/// Fields of a schema at most.
pub const MAX_FIELDS: usize = 512;
/// Bytes of text in a schema at most: its name, format, paths and kinds together.
pub const MAX_TEXT: usize = 32 * 1024;
/// Types inside types that are described at most; containers count.
pub const MAX_NESTING: usize = 16;
/// Largest archived root, in bytes: the largest payload.
pub const MAX_SIZE: u32 = 1 << 30;
/// Largest alignment of an archived root, in bytes: that of a payload in a ring.
pub const MAX_ALIGN: u32 = 16;

impl Schema {
    /// Checks a schema against the limits. To be called before anything of a peer's schema is used.
    ///
    /// # Errors
    /// [`Error::Type`], which names the limit that is broken.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::Type(why));
        if self.fields.len() > MAX_FIELDS {
            return refuse(format!(
                "it has {} fields, the limit is {MAX_FIELDS}",
                self.fields.len()
            ));
        }
        let text = self.text();
        if text > MAX_TEXT {
            return refuse(format!(
                "its names take {text} bytes, the limit is {MAX_TEXT}"
            ));
        }
        if !self.align.is_power_of_two() || self.align > MAX_ALIGN {
            return refuse(format!(
                "its archived form is aligned to {} bytes, and the limit is {MAX_ALIGN}, a power of two; leave out repr(align)",
                self.align
            ));
        }
        if self.size > MAX_SIZE || !self.size.is_multiple_of(self.align) {
            return refuse(format!(
                "its size is {} bytes; it has to be a multiple of its alignment up to {MAX_SIZE}",
                self.size
            ));
        }
        if self.name.is_empty() || self.format.is_empty() {
            return refuse("its name or its format is empty".to_owned());
        }
        if !printable(&self.name) || !printable(&self.format) {
            return refuse("its name or its format holds control characters".to_owned());
        }
        for (index, field) in self.fields.iter().enumerate() {
            if field.path.is_empty() || field.kind.is_empty() {
                return refuse(format!("field {index} has no path or no kind"));
            }
            if !printable(&field.path) || !printable(&field.kind) {
                return refuse(format!("field {index} holds control characters"));
            }
            if field.offset.checked_add(field.size).is_none() {
                return refuse(format!(
                    "field {index} of {} bytes cannot be at byte {}",
                    field.size, field.offset
                ));
            }
        }
        Ok(())
    }

    /// Bytes of text in the whole schema. Lengths in memory cannot overflow their sum.
    fn text(&self) -> usize {
        let fields = self.fields.iter();
        self.name.len()
            + self.format.len()
            + fields
                .map(|field| field.path.len() + field.kind.len())
                .sum::<usize>()
    }
}

/// A peer's text ends in error messages and logs: it may not steer a terminal, not even by
/// turning the direction of the text around.
fn printable(text: &str) -> bool {
    !text.chars().any(|c| {
        c.is_control() || matches!(c, '\u{200e}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    })
}
