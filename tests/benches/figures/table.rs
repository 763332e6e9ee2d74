//! The table of figures: ours, the reference, their ratio, and the ratio that is wanted.

/// Returns the middle value; of an even number, the lower middle.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get((values.len().max(1) - 1) / 2).copied().unwrap_or_default()
}

/// Returns the value below which this share of the values lies.
pub fn percentile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = (share * values.len() as f64) as usize;
    values.get(rank.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}

/// Prints a title and the column heads.
pub fn head(title: &str, ours: &str, reference: &str) {
    println!("{title}");
    println!("  {:<28} {ours:>16} {reference:>16} {:>8}   wanted", "", "ratio");
}

/// Prints one line. `wanted` is the least ratio, if one was promised.
pub fn line(name: &str, ours: f64, reference: f64, wanted: Option<f64>) {
    let ratio = ours / reference;
    let verdict = match wanted {
        Some(wanted) if ratio >= wanted => format!("at least {wanted}"),
        Some(wanted) => format!("at least {wanted}: SHORT"),
        None => String::new(),
    };
    println!("  {name:<28} {:>16} {:>16} {ratio:>8.2}   {verdict}", number(ours), number(reference));
}

/// Prints one line whose ratio must be at most this.
pub fn line_at_most(name: &str, ours: f64, reference: f64, most: f64) {
    let ratio = ours / reference;
    let verdict = if ratio <= most { "" } else { ": OVER" };
    println!("  {name:<28} {:>16} {:>16} {ratio:>8.2}   at most {most}{verdict}", number(ours), number(reference));
}

/// Formats digits in groups of three, and small values with decimals.
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
