//! `check`: one finding per line, each problem with what to do and a page.

mod findings;
mod pre;

use std::fmt::Write as _;

use serde::Serialize;

use crate::docs::Page;
use crate::report::{Report, unread_text};
use crate::snapshot::Unread;
use crate::text::{Verdict, bold, wrapped};

pub(crate) use findings::findings;
pub(crate) use pre::before_installation;

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// The heading that it belongs to.
    pub(crate) category: &'static str,
    pub(crate) name: String,
    pub(crate) verdict: Verdict,
    pub(crate) text: String,
    /// The remedy, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remedy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) docs: Option<Page>,
}

impl Finding {
    fn ok(category: &'static str, name: &str, text: impl Into<String>) -> Self {
        Self {
            category,
            name: name.to_owned(),
            verdict: Verdict::Ok,
            text: text.into(),
            remedy: None,
            docs: None,
        }
    }

    fn bad(
        category: &'static str,
        name: &str,
        verdict: Verdict,
        text: impl Into<String>,
        remedy: impl Into<String>,
        docs: Page,
    ) -> Self {
        let remedy = remedy.into();
        Self {
            verdict,
            remedy: (!remedy.is_empty()).then_some(remedy),
            docs: Some(docs),
            ..Self::ok(category, name, text)
        }
    }
}

/// All findings.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    pub(crate) findings: Vec<Finding>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unread: Vec<Unread>,
}

impl Check {
    /// How many findings have a verdict.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.findings.iter().filter(|one| one.verdict == verdict).count()
    }

    /// The findings as JUnit XML.
    pub(crate) fn junit(&self) -> String {
        let failures = self.count(Verdict::Problem);
        let skipped = self.count(Verdict::Unknown) + self.count(Verdict::Skipped);
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"kubectl-lb check\" tests=\"{}\" \
             failures=\"{failures}\" skipped=\"{skipped}\">\n",
            self.findings.len()
        );
        for finding in &self.findings {
            let _ = write!(
                xml,
                "  <testcase classname=\"{}\" name=\"{}\">",
                escaped(finding.category),
                escaped(&finding.name)
            );
            let text = escaped(&finding.text);
            let remedy = escaped(finding.remedy.as_deref().unwrap_or_default());
            let _ = match finding.verdict {
                Verdict::Problem => write!(xml, "<failure message=\"{text}\">{remedy}</failure>"),
                Verdict::Unknown | Verdict::Skipped => write!(xml, "<skipped message=\"{text}\"/>"),
                Verdict::Warning => write!(xml, "<system-out>WARNING {text} {remedy}</system-out>"),
                Verdict::Ok => write!(xml, "<system-out>{text}</system-out>"),
            };
            xml.push_str("</testcase>\n");
        }
        xml.push_str("</testsuite>\n");
        xml
    }
}

/// Text in XML. Control characters cannot be written at all.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for one in text.chars() {
        match one {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(' '),
            one if one.is_control() => {}
            one => escaped.push(one),
        }
    }
    escaped
}

impl Report for Check {
    fn text(&self, _wide: bool) -> String {
        let mut text = String::new();
        let mut category = "";
        for finding in &self.findings {
            if finding.category != category {
                category = finding.category;
                let _ = writeln!(text, "{}", bold(category));
            }
            let line = wrapped(&finding.text, 11, 11);
            let _ = writeln!(text, "  {}  {line}", finding.verdict.cell());
            if let Some(remedy) = &finding.remedy {
                let _ = writeln!(text, "           → {}", wrapped(remedy, 13, 13));
            }
            if let Some(docs) = finding.docs {
                let _ = writeln!(text, "             {docs}");
            }
        }
        let [problems, warnings, unknown] =
            [Verdict::Problem, Verdict::Warning, Verdict::Unknown].map(|verdict| self.count(verdict));
        let _ = match (problems, warnings, unknown) {
            (0, 0, 0) => writeln!(text, "No problems."),
            _ => writeln!(
                text,
                "Problems: {problems}. Warnings: {warnings}. Unknown: {unknown}."
            ),
        };
        text + &unread_text(&self.unread)
    }

    fn has_problems(&self) -> bool {
        self.count(Verdict::Problem) > 0
    }

    fn unread(&self) -> &[Unread] {
        &self.unread
    }
}

#[cfg(test)]
mod tests {
    use super::escaped;

    #[test]
    fn text_of_tenants_cannot_break_the_xml() {
        assert_eq!(escaped("a<b>&\"\u{1b}[31m\n"), "a&lt;b&gt;&amp;&quot;[31m ");
    }
}
