//! Bytes as hexadecimal digits.

/// Two lower-case digits for each byte. Rust's formatting of a digest takes longer than computing it.
pub fn hexadecimal(bytes: &[u8]) -> String {
    let (fours, rest) = bytes.as_chunks();
    let mut text = Vec::with_capacity(2 * bytes.len());
    fours.iter().for_each(|four| text.extend_from_slice(&digits(*four)));
    let mut last = [0; 4];
    last[..rest.len()].copy_from_slice(rest);
    text.extend_from_slice(&digits(last)[..2 * rest.len()]);
    String::from_utf8(text).expect("digits are ASCII")
}

/// The digits of four bytes, made together: each has a byte of a number.
fn digits(bytes: [u8; 4]) -> [u8; 8] {
    let four = u64::from(u32::from_be_bytes(bytes));
    let two = (four | four << 16) & 0x0000_ffff_0000_ffff;
    let one = (two | two << 8) & 0x00ff_00ff_00ff_00ff;
    let halves = (one | one << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    let are_letters = ((halves + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (halves + 0x3030_3030_3030_3030 + are_letters * u64::from(b'a' - b'9' - 1)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_has_two_digits() {
        assert_eq!(hexadecimal(&[0x00, 0x09, 0xaf, 0xff]), "0009afff");
        assert_eq!(hexadecimal(&[]), "");
        let all: Vec<u8> = (0..=255).collect();
        for length in 0..=all.len() {
            let expected: String = all[..length].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hexadecimal(&all[..length]), expected);
        }
    }
}
