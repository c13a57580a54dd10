//! Bytes as hexadecimal digits.

/// Two lower-case digits for each byte. Rust's formatting of a digest takes longer than computing it.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    let mut text = String::with_capacity(2 * bytes.len());
    bytes.iter().for_each(|byte| text.extend([digit(byte >> 4), digit(byte & 15)]));
    text
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
