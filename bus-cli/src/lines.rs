//! Input cut into lines, without a copy for each.

/// Bytes to begin with; it grows for longer lines.
const START: usize = 256 << 10;

/// A buffer that input is read into and lines are taken from.
///
/// ```text
///  lines that were taken | the rest: a line's beginning | room
/// ```
pub struct Lines {
    buffer: Vec<u8>,
    filled: usize,
    /// Bytes that were searched and hold no line's end.
    searched: usize,
}

impl Lines {
    /// An empty buffer.
    pub fn new() -> Self {
        Self {
            buffer: vec![0; START],
            filled: 0,
            searched: 0,
        }
    }

    /// Where to read to: at least one byte, unless the buffer is full.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// So many bytes were read. Returns how many bytes whole lines take now, ends included.
    pub fn read(&mut self, bytes: usize) -> usize {
        self.filled = (self.filled + bytes).min(self.buffer.len());
        let new = &self.buffer[self.searched..self.filled];
        let whole = match new.iter().rposition(|b| *b == b'\n') {
            Some(at) => self.searched + at + 1,
            None => 0,
        };
        self.searched = self.filled;
        whole
    }

    /// The lines in the first `whole` bytes, without their ends.
    pub fn lines(&self, whole: usize) -> impl Iterator<Item = &[u8]> {
        let ended = self.buffer[..whole].split_inclusive(|b| *b == b'\n');
        ended.map(|line| line.strip_suffix(b"\n").unwrap_or(line))
    }

    /// Forgets the first `whole` bytes.
    pub fn take(&mut self, whole: usize) {
        self.buffer.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        self.searched = self.filled;
    }

    /// The line whose end has not come yet.
    pub fn rest(&self) -> &[u8] {
        &self.buffer[..self.filled]
    }

    /// Whether the rest fills the buffer, so that it has to [`grow`](Self::grow).
    pub fn is_full(&self) -> bool {
        self.filled == self.buffer.len()
    }

    /// Makes room for a longer line.
    pub fn grow(&mut self) {
        self.buffer.resize(self.buffer.len() * 2, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(lines: &mut Lines, bytes: &[u8]) -> Vec<Vec<u8>> {
        lines.room()[..bytes.len()].copy_from_slice(bytes);
        let whole = lines.read(bytes.len());
        let found = lines.lines(whole).map(<[u8]>::to_vec).collect();
        lines.take(whole);
        found
    }

    #[test]
    fn lines_come_whole_however_they_were_read() {
        let mut lines = Lines::new();
        assert!(feed(&mut lines, b"on").is_empty());
        assert_eq!(
            feed(&mut lines, b"e\n\ntwo\r\nth"),
            [&b"one"[..], b"", b"two\r"]
        );
        assert!(feed(&mut lines, b"re").is_empty());
        assert_eq!(feed(&mut lines, b"e\n"), [b"three"]);
        assert!(lines.rest().is_empty());
    }

    #[test]
    fn a_line_longer_than_the_buffer_makes_it_grow() {
        let mut lines = Lines::new();
        assert!(feed(&mut lines, &[b'x'; START]).is_empty());
        assert!(lines.is_full());
        lines.grow();
        assert_eq!(feed(&mut lines, b"y\n")[0].len(), START + 1);
    }
}
