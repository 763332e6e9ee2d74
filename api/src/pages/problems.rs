//! The page that `type` of a problem leads to: every code with its meaning and its remedy. It has no personal data.

use std::fmt::Write;

use fulexo_node::http::files::{Cache, File, PAGE, STYLE};
use fulexo_node::http::problem::{self, Code};
use hyper::body::Bytes;
use poem::http::HeaderValue;

/// The content policy: our style and an icon. The page has no script.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Returns the page and its style.
#[must_use]
pub fn files() -> [File; 2] {
    [
        File {
            path: problem::PAGE,
            operation: "get_problems_page",
            content_type: PAGE,
            policy: Some(POLICY),
            cache: Cache::Revalidated,
            bytes: Bytes::from(html()),
        },
        File {
            path: "/problems/problems.css",
            operation: "get_problems_style",
            content_type: STYLE,
            policy: None,
            cache: Cache::Revalidated,
            bytes: Bytes::from_static(include_bytes!("../../assets/problems.css")),
        },
    ]
}

fn html() -> String {
    let mut page = String::from(include_str!("../../assets/problems.html"));
    let mut entries = String::new();
    for Code { name, status, meaning, remedy } in Code::ALL {
        // Writing to a String cannot fail.
        let _ = write!(
            entries,
            "<section id=\"{name}\">\n<h2><a href=\"#{name}\">{name}</a> <span>{status}</span></h2>\n<p>{meaning}</p>\n\
             <p class=\"remedy\">{remedy}</p>\n</section>\n"
        );
    }
    if let Some(place) = page.find("<!-- codes -->") {
        page.insert_str(place, &entries);
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_place_on_the_page() {
        let page = html();
        for code in Code::ALL {
            assert!(page.contains(&format!("<section id=\"{}\">", code.name)), "{}", code.name);
            for text in [code.meaning, code.remedy] {
                assert!(page.contains(text) && !text.contains(['<', '>', '&']), "{text}");
            }
        }
    }
}
