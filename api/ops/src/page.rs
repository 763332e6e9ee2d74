//! A report as a page for people: one file without scripts, images or links, which a browser shows offline. Every text in it is
//! escaped.

use std::fmt::Write;

use serde_json::Value;

use crate::report::{CheckResult, Report};

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a1a1a;background:#fff}\
table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #ccc;padding:.4rem .6rem;text-align:left;vertical-align:top}\
.passed{color:#146c2e}.found{color:#a40e26}.not_checked{color:#7a4d00}td{overflow-wrap:anywhere}";

/// Returns the page.
#[must_use]
pub fn to_page(report: &Report) -> String {
    let mut page = String::new();
    let title = escape(&format!("fulexo {}: {}", report.verb, report.target));
    // Nothing on the page may ask for anything.
    let policy = "default-src 'none'; style-src 'unsafe-inline'";
    push(
        &mut page,
        format_args!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\
             <title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        ),
    );
    let (began, ended) = (report.began_at.to_rfc3339(), report.ended_at.to_rfc3339());
    push(
        &mut page,
        format_args!("<p>{}. Began {}, ended {}.</p>\n", report.verdict().as_str(), escape(&began), escape(&ended)),
    );
    page.push_str("<table><thead><tr><th>check</th><th>result</th><th>detail</th></tr></thead><tbody>\n");
    for check in &report.checks {
        let (class, result, detail) = match &check.result {
            CheckResult::Passed { detail } => ("passed", "passed", escape(detail)),
            CheckResult::NotChecked { reason } => ("not_checked", "not checked", escape(reason)),
            CheckResult::Found { findings } => {
                let lines = findings.iter().map(|finding| {
                    let severity = finding.severity.as_str();
                    let text = format!("{severity}: {} — {}. {}", finding.subject, finding.evidence, finding.remedy);
                    escape(&text)
                });
                ("found", "found", lines.collect::<Vec<_>>().join("<br>"))
            }
        };
        let (id, claim) = (escape(&check.id), escape(&check.title));
        push(
            &mut page,
            format_args!("<tr><td>{id}<br>{claim}</td><td class=\"{class}\">{result}</td><td>{detail}</td></tr>\n"),
        );
    }
    page.push_str("</tbody></table>\n");
    if !report.facts.is_empty() {
        page.push_str("<h2>Facts</h2>\n<table><tbody>\n");
        for (name, value) in &report.facts {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            push(&mut page, format_args!("<tr><th>{}</th><td>{}</td></tr>\n", escape(name), escape(&text)));
        }
        page.push_str("</tbody></table>\n");
    }
    page.push_str("</body></html>\n");
    page
}

fn push(page: &mut String, text: std::fmt::Arguments<'_>) {
    // A string takes all that is written.
    let _ = page.write_fmt(text);
}

/// Replaces what has a meaning in HTML, in texts and in attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use serde_json::json;

    use super::*;
    use crate::finding::{Rule, Severity};
    use crate::report::Check;

    #[test]
    fn a_page_has_no_script_and_everything_in_it_is_escaped() {
        const HOSTILE: &str = "<script>alert('&\"')</script>";
        const RULE: Rule = Rule {
            id: "a.rule",
            title: "a title",
            severity: Severity::High,
            remedy: "Mend <it>.",
            reference: "docs/backups.md",
        };
        let mut report = Report::begin("backup drill", HOSTILE, DateTime::UNIX_EPOCH);
        report.checks.push(Check::passed("one", HOSTILE, HOSTILE));
        report.checks.push(Check::not_checked("two", HOSTILE, HOSTILE));
        report.checks.push(Check::of("three", HOSTILE, "", vec![RULE.finding(HOSTILE, HOSTILE)]));
        report.facts.insert(HOSTILE.to_owned(), json!({"nested": HOSTILE}));
        let page = to_page(&report);
        assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
        assert!(page.contains("&lt;script&gt;alert(&#39;&amp;&quot;&#39;)&lt;/script&gt;"), "{page}");
        assert!(page.contains("Mend &lt;it&gt;.") && page.contains("default-src 'none'"), "{page}");
        for active in ["src=", "href=", "javascript:", "onload"] {
            assert!(!page.replace("-src ", "").contains(active), "{active}: {page}");
        }
    }
}
