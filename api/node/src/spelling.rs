//! Suggestions for misspelt names.

/// Returns `; did you mean NAME?` for the name that is closest to the input, or an empty text if none is close.
pub fn did_you_mean<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, names).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// Returns the name that is closest to the input, if one is close.
pub fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |name: &str| {
        let is_beginning = name.starts_with(written) && !written.is_empty();
        if is_beginning { 1.0 } else { strsim::jaro_winkler(written, name) }
    };
    let nearest = names.into_iter().map(|name| (near(name), name)).max_by(|(one, _), (other, _)| one.total_cmp(other));
    nearest.filter(|(near, _)| *near > 0.85).map(|(_, name)| name)
}
