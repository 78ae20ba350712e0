//! Kubernetes quantities as numbers.
//!
//! Read by `validate`, `hash` and the view of the planner. What is no quantity is None; nothing here guesses.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The value in thousandths (a CPU is a thousand), rounded up.
#[must_use]
pub fn thousandths(text: &str) -> Option<i128> {
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-'))).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 12 || number.len() > 24 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let scale = 10_i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let whole: i128 = if whole.is_empty() && !fraction.is_empty() { 0 } else { whole.parse().ok()? };
    let fraction: i128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    let digits = whole.checked_mul(scale)?.checked_add(if number.starts_with('-') { -fraction } else { fraction })?;
    let (multiplier, divisor): (i128, i128) = match suffix {
        "n" => (1, 1_000_000),
        "u" => (1, 1000),
        "m" => (1, 1),
        "" => (1000, 1),
        "k" => (1_000_000, 1),
        "M" => (1_000_000_000, 1),
        "G" => (1_000_000_000_000, 1),
        "T" => (1_000_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000_000, 1),
        "Ki" => (1000 << 10, 1),
        "Mi" => (1000 << 20, 1),
        "Gi" => (1000 << 30, 1),
        "Ti" => (1000 << 40, 1),
        "Pi" => (1000 << 50, 1),
        "Ei" => (1000 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            let ten = 10_i128.checked_pow(power.unsigned_abs().min(24))?;
            if power >= 0 { (ten.checked_mul(1000)?, 1) } else { (1000, ten) }
        }
    };
    let divisor = divisor.checked_mul(scale)?;
    let product = digits.checked_mul(multiplier)?;
    Some(product.div_euclid(divisor) + i128::from(product.rem_euclid(divisor) != 0))
}

/// The value as whole units, rounded up; None when it is negative or too large.
#[must_use]
pub fn whole(quantity: &Quantity) -> Option<u64> {
    let value = thousandths(&quantity.0)?;
    u64::try_from(value.div_euclid(1000) + i128::from(value.rem_euclid(1000) != 0)).ok()
}

/// The first two digits, for people: bytes that are on the move are another number at every look.
#[must_use]
pub const fn coarse(value: u64) -> u64 {
    let mut unit = 1;
    while value / unit >= 100 {
        unit *= 10;
    }
    value / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_coarse_number_keeps_two_digits() {
        for (value, expected) in
            [(0, 0), (7, 7), (99, 99), (109, 100), (12_999, 12_000), (u64::MAX, 18 * 10_u64.pow(18))]
        {
            assert_eq!(coarse(value), expected);
        }
    }

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("1", Some(1)),
            ("1Gi", Some(1 << 30)),
            ("0.5Gi", Some(1 << 29)),
            ("1.5k", Some(1500)),
            ("100m", Some(1)),
            ("1e3", Some(1000)),
            ("2E", Some(2_000_000_000_000_000_000)),
            (".5M", Some(500_000)),
            ("-1", None),
            ("", None),
            ("Gi", None),
            ("1 Gi", None),
            ("1Qi", None),
            ("1..2", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(whole(&Quantity(text.to_owned())), expected, "{text}");
        }
        assert_eq!(thousandths("1024Mi"), thousandths("1Gi"));
        assert_eq!(thousandths("1000m"), thousandths("1"));
    }
}
