//! A page of the runbooks: its variables, its alerts and its commands, as a script that stops at the first command that does
//! not exit as the page says. CONTRIBUTING.md describes the form.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use super::root;

/// The section of a command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Section {
    First,
    Cause,
    Over,
}

impl Section {
    pub const ALL: [Self; 3] = [Self::First, Self::Cause, Self::Over];
    /// The headings of a page, in their order.
    pub const HEADINGS: [&'static str; 5] =
        ["What it means", "Do this first", "Find the cause", "Know that it is over", "Write down"];

    fn of(heading: &str) -> Option<Self> {
        match heading {
            "Do this first" => Some(Self::First),
            "Find the cause" => Some(Self::Cause),
            "Know that it is over" => Some(Self::Over),
            _ => None,
        }
    }
}

/// Commands up to one whose exit code or output the page states.
pub struct Step {
    section: Section,
    pub commands: String,
    exit: i32,
    pub prints: Vec<String>,
}

/// A page.
pub struct Page {
    pub name: String,
    pub text: String,
    /// The variables that whoever works through it has to set.
    pub variables: Vec<String>,
    /// The texts that its lines beginning with `Alert:` quote.
    pub alerts: Vec<String>,
    pub headings: Vec<String>,
    /// The blocks of commands that are examples, because they differ from machine to machine.
    pub examples: usize,
    steps: Vec<Step>,
}

/// The line at the top that stands for the environment of a node.
const ENVIRONMENT: [&str; 2] = ["set -a; . /etc/fulexo/fulexo.env; set +a", "set -a; . /etc/fulexo/backup.env; set +a"];

impl Page {
    pub fn read(name: &str) -> Self {
        let path = root().join(format!("docs/runbooks/{name}.md"));
        let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut page = Self {
            name: name.to_owned(),
            variables: Vec::new(),
            alerts: Vec::new(),
            headings: Vec::new(),
            examples: 0,
            steps: Vec::new(),
            text: String::new(),
        };
        let (mut section, mut block): (Option<Section>, Option<(&str, String)>) = (None, None);
        for line in text.lines() {
            match (&mut block, line.strip_prefix("```")) {
                (None, Some(kind)) => block = Some((kind, String::new())),
                (Some((kind, lines)), Some(_)) => {
                    match *kind {
                        "sh" if page.headings.is_empty() => page.set(lines),
                        "sh" => {
                            let section = section.unwrap_or_else(|| panic!("{name}: commands in another section"));
                            page.steps.extend(steps(section, lines));
                        }
                        "text" => page.examples += 1,
                        other => panic!("{name}: a block of {other:?}"),
                    }
                    block = None;
                }
                (Some((_, lines)), None) => {
                    lines.push_str(line);
                    lines.push('\n');
                }
                (None, None) => {
                    if let Some(heading) = line.strip_prefix("## ") {
                        section = Section::of(heading);
                        page.headings.push(heading.to_owned());
                    } else if let Some(alert) = line.strip_prefix("Alert: ") {
                        page.alerts.extend(alert.split('`').skip(1).step_by(2).map(str::to_owned));
                    }
                }
            }
        }
        Self { text, ..page }
    }

    /// Takes the block at the top: assignments, and the environment of a node.
    fn set(&mut self, block: &str) {
        for line in block.lines() {
            let set = line.split("  #").next().unwrap().trim();
            if ENVIRONMENT.contains(&set) {
                continue;
            }
            for assigned in set.strip_prefix("export ").unwrap_or(set).split(' ') {
                let (variable, value) =
                    assigned.split_once('=').unwrap_or_else(|| panic!("{}: {line:?} sets nothing", self.name));
                assert!(!value.is_empty(), "{}: {variable} has no example", self.name);
                self.variables.push(variable.to_owned());
            }
        }
    }

    /// The steps of these sections, in the order of the page.
    pub fn steps(&self, sections: &[Section]) -> impl Iterator<Item = &Step> {
        self.steps.iter().filter(|step| sections.contains(&step.section))
    }

    /// A script of the commands of these sections, which writes the output of each step into a file of this directory, and
    /// exits at the first command that does not exit as it should.
    pub fn script(&self, sections: &[Section], out: &Path) -> String {
        let mut script = String::from(
            "set -uo pipefail\n\
             trap 'code=$?; [ \"$code\" = \"$expected\" ] || { echo \"exited with $code\"; exit 90; }; met=1' ERR\n",
        );
        for (number, step) in self.steps(sections).enumerate() {
            let Step { commands, exit, .. } = step;
            let out = out.join(number.to_string());
            let met = u8::from(*exit == 0);
            let _ = writeln!(script, "expected={exit} met={met}; exec >'{}' 2>&1\n{commands}", out.display());
            let _ = writeln!(script, "[ $met = 1 ] || {{ echo 'no command exited with {exit}'; exit 91; }}");
        }
        script
    }
}

/// Divides a block at the comments that state an exit code or an output.
fn steps(section: Section, block: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut is_stated = true;
    for line in block.lines() {
        let exit = line.strip_prefix("# exits with ").map(|code| code.parse().unwrap());
        let text = line.strip_prefix("# prints: ");
        if is_stated && exit.is_none() && text.is_none() {
            steps.push(Step { section, commands: String::new(), exit: 0, prints: Vec::new() });
            is_stated = false;
        }
        let step = steps.last_mut().unwrap_or_else(|| panic!("a statement without a command: {line}"));
        match (exit, text) {
            (Some(exit), _) => step.exit = exit,
            (None, Some(text)) => step.prints.push(text.to_owned()),
            (None, None) => {
                step.commands.push_str(line);
                step.commands.push('\n');
                continue;
            }
        }
        is_stated = true;
    }
    steps
}

/// `true` if an alert such as `a - b > 1` holds for the metrics of a scrape. A metric with labels counts as its greatest value.
pub fn fires(alert: &str, scraped: &str) -> bool {
    let value = |word: &str| -> Option<f64> {
        let values = scraped.lines().filter_map(|line| {
            let rest = line.strip_prefix(word)?;
            if !rest.starts_with(['{', ' ']) {
                return None;
            }
            rest.rsplit(' ').next()?.parse().ok()
        });
        word.parse().ok().or_else(|| values.reduce(f64::max))
    };
    let words: Vec<&str> = alert.split(' ').collect();
    let (left, operator, right) = match words.as_slice() {
        [left, operator, right] => (value(left), *operator, value(right)),
        [left, "-", less, operator, right] => {
            (value(left).zip(value(less)).map(|(left, less)| left - less), *operator, value(right))
        }
        _ => panic!("{alert} has another form"),
    };
    let Some((left, right)) = left.zip(right) else { return false };
    match operator {
        "==" => (left - right).abs() < f64::EPSILON,
        ">" => left > right,
        ">=" => left >= right,
        _ => panic!("{alert} has another operator"),
    }
}

#[test]
fn a_command_that_does_not_exit_as_stated_stops_the_script() {
    let run = |block: &str| {
        let steps = steps(Section::First, block);
        let page = Page { steps, ..Page::read("check-headers") };
        let dir = fulexo_tests::own_dir();
        let script = page.script(&[Section::First], dir.path());
        std::process::Command::new("bash").arg("-c").arg(script).status().unwrap().code().unwrap()
    };
    assert_eq!(run("true\n(exit 3)\n# exits with 3\nif false; then :; fi\n"), 0);
    assert_eq!(run("false\ntrue\n"), 90);
    assert_eq!(run("true\n# exits with 3\n"), 91);
    assert_eq!(run("(exit 1)\n# exits with 3\n"), 90);
    assert_eq!(run("false | true\n"), 90, "in a pipe, too");
}

#[test]
fn an_alert_fires_by_its_metrics() {
    let scraped = "# TYPE a gauge\na{x=\"1\"} 0\na{x=\"2\"} 1\nab 7\nb 5\n";
    for (alert, holds) in [("a == 1", true), ("b > 5", false), ("b >= 5", true), ("ab - b > 1", true), ("c > 0", false)]
    {
        assert_eq!(fires(alert, scraped), holds, "{alert}");
    }
}
