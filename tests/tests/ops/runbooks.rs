//! The runbooks of `docs/runbooks/`: every command of every page, run against real servers; every alert, first produced on the
//! real thing, and over when its page says so.

mod alerts;
mod commands;
mod complete;
mod dependencies;
mod incident;
mod page;
mod signing;
mod situations;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fulexo_dev_servers::DataDir;
use fulexo_tests::{Database, Node, Program, eventually, own_dir};
use tokio::task::block_in_place;

use page::{Page, Section};

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The shell of somebody who works through a page: a directory of their own, the environment of a node, and a superuser's psql.
struct Desk {
    dir: DataDir,
    env: BTreeMap<String, String>,
}

/// The result of the commands of a page.
struct Followed {
    code: Option<i32>,
    /// The outputs, by step.
    said: Vec<String>,
    errors: String,
}

impl Desk {
    /// A desk at which psql reaches this database, and verbs have these variables.
    fn new(database: &Database, env: &BTreeMap<String, String>) -> Self {
        let mut env = env.clone();
        let url = database.superuser_url();
        let (user, rest) = url.split_once("://").unwrap().1.split_once(':').unwrap();
        let (password, rest) = rest.split_once('@').unwrap();
        let (address, name) = rest.split('?').next().unwrap().split_once('/').unwrap();
        let (host, port) = address.split_once(':').unwrap();
        for (variable, value) in
            [("PGUSER", user), ("PGPASSWORD", password), ("PGHOST", host), ("PGPORT", port), ("PGDATABASE", name)]
        {
            env.insert(variable.to_owned(), value.to_owned());
        }
        Self { dir: own_dir(), env }
    }

    /// A desk that needs no database.
    fn bare() -> Self {
        Self { dir: own_dir(), env: BTreeMap::new() }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Runs what these sections of a page say, with values for the variables that the page names at its top.
    fn run(&self, page: &Page, sections: &[Section], values: &[(&str, &str)]) -> Followed {
        let mut env = self.env.clone();
        env.extend(values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        for name in &page.variables {
            assert!(env.contains_key(name), "{}: nobody gives a value for {name}", page.name);
        }
        let out = own_dir();
        let script = page.script(sections, out.path());
        fs::write(out.path().join("script"), &script).unwrap();
        let program = Program::path();
        let folders = [program.parent().unwrap().to_owned(), root().join("scripts")];
        let known = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&known))).unwrap();
        // A page that waits for what does not come shall not keep the suite.
        let ended = block_in_place(|| {
            Command::new("timeout")
                .args(["300", "bash"])
                .arg(out.path().join("script"))
                .current_dir(self.dir.path())
                .env_clear()
                .envs([("HOME", self.path("")), ("LANG", "C.UTF-8".to_owned())])
                .envs(env)
                .env("PATH", path)
                .stdin(std::process::Stdio::null())
                .output()
                .unwrap()
        });
        let read = |number| fs::read(out.path().join(format!("{number}"))).ok();
        let said = (0..).map_while(read).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).collect();
        Followed { code: ended.status.code(), said, errors: String::from_utf8_lossy(&ended.stderr).into_owned() }
    }

    /// Works through these sections, and panics unless every command exits and prints as the page says.
    fn follow_sections(&self, page: &Page, sections: &[Section], values: &[(&str, &str)]) {
        let Followed { code, said, errors } = self.run(page, sections, values);
        let last = said.last().map_or("", String::as_str);
        assert_eq!(code, Some(0), "{}: after {} steps: {last}\n{errors}", page.name, said.len());
        for (step, said) in page.steps(sections).zip(&said) {
            for text in &step.prints {
                assert!(said.contains(text), "{}: {}\ndoes not print {text:?}, but\n{said}", page.name, step.commands);
            }
        }
    }

    /// Works through a page from its top to its end.
    fn follow(&self, page: &Page, values: &[(&str, &str)]) {
        self.follow_sections(page, &Section::ALL, values);
    }

    /// `true` if the page says that it is over.
    fn is_over(&self, page: &Page, values: &[(&str, &str)]) -> bool {
        let Followed { code, said, .. } = self.run(page, &[Section::Over], values);
        let prints = |(step, said): (&page::Step, &String)| step.prints.iter().all(|text| said.contains(text));
        code == Some(0) && page.steps(&[Section::Over]).zip(&said).all(prints)
    }

    /// Waits until an alert of the page fires, by the metrics of this node.
    async fn fires(&self, page: &Page, node: &Node) {
        eventually(&format!("{} fires", page.name), async || {
            let scraped = node.anonymous().get("/metrics").await.text;
            page.alerts.iter().filter(|alert| alert.starts_with("fulexo_")).any(|alert| page::fires(alert, &scraped))
        })
        .await;
    }

    /// Works through the page of an alert: the alert fires at this node, the page does not say that it is over, its commands do
    /// what they say, and once the cause is away the page says so.
    async fn alert(&self, page: &Page, node: &Node, values: &[(&str, &str)], end: impl AsyncFnOnce()) {
        self.fires(page, node).await;
        self.work_through(page, values, end).await;
    }

    /// Does the same for an alert that is not a metric of the node.
    async fn work_through(&self, page: &Page, values: &[(&str, &str)], end: impl AsyncFnOnce()) {
        eventually(&format!("{} is not over", page.name), async || !self.is_over(page, values)).await;
        self.follow_sections(page, &[Section::First, Section::Cause], values);
        end().await;
        eventually(&format!("{} is over", page.name), async || self.is_over(page, values)).await;
    }
}
