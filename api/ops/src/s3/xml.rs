//! The few elements of XML that a store's answers have, by their names: texts, without attributes, comments or namespaces. Whatever
//! else a store writes is not found.

/// Returns the contents of all elements of this name, as they are written.
pub fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> + use<'a> {
    let (begin, end) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = xml;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&begin)?;
        let (content, after) = after.split_once(&end)?;
        rest = after;
        Some(content)
    })
}

/// Returns the text of the first element of this name.
pub fn first(xml: &str, name: &str) -> Option<String> {
    elements(xml, name).next().map(text)
}

/// Replaces the five entities that XML has, and those of digits.
fn text(written: &str) -> String {
    let mut text = String::with_capacity(written.len());
    let mut rest = written;
    while let Some((before, after)) = rest.split_once('&') {
        text.push_str(before);
        let Some((entity, behind)) = after.split_once(';').filter(|(entity, _)| entity.len() <= 8) else {
            text.push('&');
            rest = after;
            continue;
        };
        match character(entity) {
            Some(character) => text.push(character),
            None => text.push_str(&format!("&{entity};")),
        }
        rest = behind;
    }
    text.push_str(rest);
    text
}

fn character(entity: &str) -> Option<char> {
    match entity {
        "amp" => Some('&'),
        "lt" => Some('<'),
        "gt" => Some('>'),
        "quot" => Some('"'),
        "apos" => Some('\''),
        _ => {
            let number = entity.strip_prefix('#')?;
            let code = match number.strip_prefix(['x', 'X']) {
                Some(digits) => u32::from_str_radix(digits, 16),
                None => number.parse(),
            };
            char::from_u32(code.ok()?)
        }
    }
}
