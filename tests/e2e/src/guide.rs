//! The user guide as a script: reads `docs/guide.md` and splits its `bash` blocks into commands, by section. An
//! end-to-end test and `make demo` run them, so the guide cannot become outdated.

/// A numbered section of the guide with commands or objects.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Section {
    /// As in the heading: `4.1`, `T1`.
    pub number: String,
    /// Its title.
    pub title: String,
    /// Its commands, in order.
    pub commands: Vec<Command>,
    /// Objects shown without a command.
    pub manifests: Vec<String>,
}

/// A command of the guide, verbatim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Command {
    /// The text for a shell: several lines for a here-document or a loop.
    pub text: String,
    /// The machine to run it on.
    pub place: Place,
}

/// A machine that runs commands of the guide.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// The administrator's machine, with `kubectl` and `helm`.
    Administrator,
    /// A machine on the LAN outside the cluster.
    Client,
}

/// The guide in this repository.
pub const GUIDE: &str = include_str!("../../../docs/guide.md");

/// Reads the sections with commands or objects. A section starts at a heading `### number: title`.
#[must_use]
pub fn sections(markdown: &str) -> Vec<Section> {
    let mut sections: Vec<Section> = Vec::new();
    let mut block: Option<(&str, Vec<&str>)> = None;
    for line in markdown.lines() {
        if let Some((language, lines)) = &mut block {
            if !line.starts_with("```") {
                lines.push(line);
                continue;
            }
            match (*language, sections.last_mut()) {
                ("bash", Some(section)) => section.commands.extend(commands(lines)),
                ("yaml", Some(section)) => section.manifests.push(lines.join("\n")),
                _ => {}
            }
            block = None;
        } else if let Some(language) = line.strip_prefix("```") {
            block = Some((language, Vec::new()));
        } else if let Some((number, title)) = line
            .strip_prefix("### ")
            .and_then(|heading| heading.split_once(": "))
        {
            let (number, title) = (number.to_owned(), title.to_owned());
            sections.push(Section {
                number,
                title,
                commands: Vec::new(),
                manifests: Vec::new(),
            });
        }
    }
    sections.retain(|section| !section.commands.is_empty() || !section.manifests.is_empty());
    sections
}

/// A section of the guide in this repository.
///
/// # Panics
/// When the guide has no such section: change the test with the guide.
#[must_use]
pub fn section(number: &str) -> Section {
    sections(GUIDE)
        .into_iter()
        .find(|section| section.number == number)
        .unwrap_or_else(|| panic!("docs/guide.md has no section {number} with commands"))
}

/// Splits a block into commands at line ends, except in a here-document, a loop or a continued line.
fn commands(lines: &[&str]) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut text = String::new();
    let mut until: Option<&str> = None;
    for line in lines {
        if text.is_empty() && (line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        text.push_str(line);
        text.push('\n');
        if let Some(end) = until {
            if *line != end {
                continue;
            }
            until = None;
        } else if line.contains("<<'EOF'") {
            until = Some("EOF");
            continue;
        } else if line.starts_with("for ") {
            until = Some("done");
            continue;
        } else if line.ends_with('\\') {
            continue;
        }
        let text = std::mem::take(&mut text).trim_end().to_owned();
        let place = if text.contains("kubectl") || text.contains("helm") {
            Place::Administrator
        } else {
            Place::Client
        };
        commands.push(Command { text, place });
    }
    commands
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_blocks_into_commands_and_keeps_here_documents() {
        let text = "### 4.8: Try\n```bash\n# comment\nkubectl get pods \\\n  -o wide\n\ncurl http://a\nfor i in 1; do\n  curl b\ndone\n\
                    kubectl apply -f - <<'EOF'\na: 1\n\n# kept\nEOF\n```\n```\noutput\n```\n```yaml\nkind: A\n```\n";
        let sections = sections(text);
        let texts: Vec<_> = sections[0]
            .commands
            .iter()
            .map(|command| command.text.as_str())
            .collect();
        assert_eq!(
            texts,
            [
                "kubectl get pods \\\n  -o wide",
                "curl http://a",
                "for i in 1; do\n  curl b\ndone",
                "kubectl apply -f - <<'EOF'\na: 1\n\n# kept\nEOF"
            ]
        );
        assert_eq!(sections[0].manifests, ["kind: A"]);
        let places: Vec<_> = sections[0].commands.iter().map(|command| command.place).collect();
        assert_eq!(
            places,
            [
                Place::Administrator,
                Place::Client,
                Place::Client,
                Place::Administrator
            ]
        );
    }

    #[test]
    fn guide_has_the_sections_of_the_demo() {
        for number in ["1.1", "2.1", "3.1", "4.1", "4.8", "4.9", "T4", "P1"] {
            assert!(!section(number).commands.is_empty());
        }
    }
}
