//! A fast filter that rejects almost every name outside of a table.

/// A filter over the names of a table: for each first byte, a bit for each of 64 combinations of length and last
/// byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameShapes([u64; 32]);

impl NameShapes {
    /// Of no names.
    pub const fn new() -> NameShapes {
        NameShapes([0; 32])
    }

    /// With one more name.
    #[must_use]
    pub const fn and(mut self, name: &str) -> NameShapes {
        let (row, bit) = place(name.as_bytes());
        self.0[row] |= bit;
        self
    }

    /// False if a name is certainly not in the table.
    pub fn may_have(&self, name: &str) -> bool {
        let (row, bit) = place(name.as_bytes());
        self.0[row] & bit != 0
    }
}

const fn place(name: &[u8]) -> (usize, u64) {
    match name {
        // The factor is chosen so that the fields of browsers miss those of the tables.
        [first, .., last] => ((*first & 31) as usize, 1 << ((name.len() + 14 * *last as usize) & 63)),
        _ => (0, 1),
    }
}
