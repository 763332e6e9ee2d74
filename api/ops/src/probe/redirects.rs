//! Probes of redirects and links: a host that the sender makes up, and targets that a query or a path names.

use super::bounds::Halt;
use super::request::TestRequest;
use super::tester::{Tester, cut};
use crate::finding::{Finding, Rule, Severity};

/// A host that is nobody's.
const FOREIGN: &str = "penetration-test.invalid";

const HOST: Rule = Rule {
    id: "redirect.host",
    title: "a header of the request decides where an answer leads",
    severity: Severity::Medium,
    remedy: "Set FULEXO_PUBLIC_URL, and build redirects of it. Refuse hosts that are not yours at the proxy.",
    reference: "CWE-644; OWASP WSTG-INPV-17",
};
const OPEN: Rule = Rule {
    id: "redirect.open",
    title: "the instance redirects to any host",
    severity: Severity::Medium,
    remedy: "Redirect to paths of your own alone.",
    reference: "CWE-601; OWASP ASVS 5.0, 3.7.2",
};

/// Asks for redirects to another host.
pub async fn redirects(tester: &mut Tester, found: &mut Vec<Finding>) -> Result<String, Halt> {
    let names = ["host", "x-forwarded-host", "x-host", "x-forwarded-server", "forwarded", "x-original-host"];
    for name in names {
        for path in ["/", "/docs", "/account", "/v1"] {
            let value = if name == "forwarded" { format!("host={FOREIGN}") } else { FOREIGN.to_owned() };
            let answer = tester.send(&TestRequest::get(path).header(name, value)).await?;
            let leads = ["location", "link", "content-location", "refresh", "set-cookie"]
                .into_iter()
                .find(|header| answer.headers(header).any(|value| value.contains(FOREIGN)));
            // A body names the host of the request, which only its sender reads; that of another header, caches may keep.
            let leads = leads.or_else(|| (name != "host" && answer.text().contains(FOREIGN)).then_some("the body"));
            if let Some(place) = leads
                && !found.iter().any(|it| it.subject == name)
            {
                found.push(HOST.finding(name, format!("GET {path}: {place} of the answer {} names it", answer.status)));
            }
        }
    }
    let targets = [
        format!("//{FOREIGN}/"),
        format!("//{FOREIGN}/%2e%2e"),
        format!("/\\{FOREIGN}/"),
        format!("/%2f{FOREIGN}/"),
        format!("/.{FOREIGN}"),
        format!("/?next=https://{FOREIGN}/"),
        format!("/?url=https://{FOREIGN}/"),
        format!("/docs?redirect=https://{FOREIGN}/"),
        format!("/account/reset-password?return_to=https://{FOREIGN}/"),
        format!("/v1/auth/login?redirect_uri=https://{FOREIGN}/"),
    ];
    for target in &targets {
        let answer = tester.send(&TestRequest::get(target)).await?;
        let location = answer.header("location").unwrap_or_default();
        let rest = location.trim_start_matches("https:").trim_start_matches("http:");
        if rest.trim_start_matches(['/', '\\']).starts_with(FOREIGN) && rest.starts_with(['/', '\\']) && rest.len() > 1
        {
            found.push(OPEN.finding(target.clone(), format!("location is {}", cut(location, 80))));
        }
    }
    Ok(format!("{} headers at 4 paths, {} targets", names.len(), targets.len()))
}
