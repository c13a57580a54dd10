//! A quick look at a name that rules almost every name out that is in no table.

/// The shapes of the names in a table: by the first byte a bit for each of 64 that are made of the length and the last byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shapes([u64; 32]);

impl Shapes {
    /// Of no name.
    pub const fn new() -> Shapes {
        Shapes([0; 32])
    }

    /// Of one name more.
    #[must_use]
    pub const fn and(mut self, name: &str) -> Shapes {
        let (row, bit) = place(name.as_bytes());
        self.0[row] |= bit;
        self
    }

    /// False if a name is certainly not one of them.
    pub fn may_have(&self, name: &str) -> bool {
        let (row, bit) = place(name.as_bytes());
        self.0[row] & bit != 0
    }
}

const fn place(name: &[u8]) -> (usize, u64) {
    match name {
        // The factor lets the fields that browsers send miss those of the tables.
        [first, .., last] => ((*first & 31) as usize, 1 << ((name.len() + 14 * *last as usize) & 63)),
        _ => (0, 1),
    }
}
