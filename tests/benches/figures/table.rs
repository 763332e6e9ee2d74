//! How figures are shown: ours, the reference, their ratio, and what the ratio has to be.

/// The middle one; of an even number the lower middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().max(1) - 1) / 2).copied().unwrap_or_default()
}

/// A title and the column heads.
pub fn head(title: &str, ours: &str, reference: &str) {
    println!("{title}");
    println!("  {:<28} {ours:>16} {reference:>16} {:>8}   wanted", "", "ratio");
}

/// One line. `wanted` is the least ratio, when one was promised.
pub fn line(name: &str, ours: f64, reference: f64, wanted: Option<f64>) {
    let ratio = ours / reference;
    let verdict = match wanted {
        Some(wanted) if ratio >= wanted => format!("at least {wanted}"),
        Some(wanted) => format!("at least {wanted}: SHORT"),
        None => String::new(),
    };
    println!("  {name:<28} {:>16} {:>16} {ratio:>8.2}   {verdict}", number(ours), number(reference));
}

/// One line whose ratio is to be at most this.
pub fn line_at_most(name: &str, ours: f64, reference: f64, most: f64) {
    let ratio = ours / reference;
    let verdict = if ratio <= most { "" } else { ": OVER" };
    println!("  {name:<28} {:>16} {:>16} {ratio:>8.2}   at most {most}{verdict}", number(ours), number(reference));
}

/// Digits in groups of three; decimals for what is small.
pub fn number(value: f64) -> String {
    if value < 1_000.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
