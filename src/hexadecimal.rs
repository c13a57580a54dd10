//! Bytes as hexadecimal digits.

/// Two lower-case digits for each byte. Rust's formatting of a digest takes longer than computing it.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
    let mut digits = vec![0; 2 * bytes.len()];
    for (pair, byte) in digits.as_chunks_mut().0.iter_mut().zip(bytes) {
        *pair = [digit(byte >> 4), digit(byte & 15)];
    }
    String::from_utf8(digits).expect("digits are ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!(hexadecimal(&[0x00, 0x09, 0xaf, 0xff]), "0009afff");
        assert_eq!(hexadecimal(&[]), "");
    }
}
