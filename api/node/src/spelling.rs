//! The name that was meant by one that is misspelt.

/// `; did you mean NAME?` where one of these names is near to what was written.
pub fn did_you_mean<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    nearest(written, names).map_or_else(String::new, |name| format!("; did you mean {name}?"))
}

/// The name that is nearest to what was written, if one is near.
pub fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |name: &str| {
        let is_beginning = name.starts_with(written) && !written.is_empty();
        if is_beginning { 1.0 } else { strsim::jaro_winkler(written, name) }
    };
    let nearest = names.into_iter().map(|name| (near(name), name)).max_by(|(one, _), (other, _)| one.total_cmp(other));
    nearest.filter(|(near, _)| *near > 0.85).map(|(_, name)| name)
}
