//! What the faults happen to: three nodes of the program, NATS, a cluster where it is what fails, one Postgres that writes
//! to disk, all of the test's own; between each node and its NATS a wire that can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fulexo_api::private::{DataDir, Options, Postgres};
use fulexo_projections::feed;
use fulexo_tests::{
    Client, Cut, NatsCluster, NatsVersion, Program, application_url, env, eventually, own_dir, prepare,
};
use serde_json::json;
use sqlx::PgPool;
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

pub const NODES: usize = 3;
const DATABASE: &str = "fulexo_faults";

pub struct Ground {
    dir: DataDir,
    postgres: Option<Postgres>,
    pub nats: NatsCluster,
    nodes: Vec<Node>,
}

struct Node {
    program: Option<Program>,
    env: BTreeMap<String, String>,
    url: String,
    nats: Vec<Cut>,
}

impl Ground {
    /// With so many NATS servers, each of which keeps the log's copy.
    pub async fn start(servers: usize) -> Self {
        let nats = NatsCluster::start(NatsVersion::Current, servers).await;
        let dir = own_dir();
        let postgres = block_in_place(|| start_postgres(&dir));
        prepare(&postgres, DATABASE).await;
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let (mut wires, mut urls) = (Vec::new(), Vec::new());
            for server in 0..servers {
                let (wire, url) = Cut::of(&nats.url_of(server)).await;
                wires.push(wire);
                urls.push(url);
            }
            let mut env = env(&application_url(&postgres, DATABASE), &urls.join(","));
            env.extend(
                [
                    ("FULEXO_NATS_REPLICAS", servers.to_string()),
                    ("FULEXO_NODE_NAME", format!("node-{number}")),
                    ("FULEXO_PORT", "0".to_owned()),
                    ("FULEXO_LOG", "warn".to_owned()),
                ]
                .map(|(name, value)| (name.to_owned(), value)),
            );
            nodes.push(Node { program: None, env, url: String::new(), nats: wires });
        }
        let mut ground = Self { dir, postgres: Some(postgres), nats, nodes };
        for number in 0..NODES {
            ground.start_node(number);
        }
        ground
    }

    /// Starts a node, where it listened before.
    pub fn start_node(&mut self, number: usize) {
        let node = &mut self.nodes[number];
        let mut program = block_in_place(|| Program::start(&["serve"], &node.env));
        node.url = block_in_place(|| program.says("listening on "));
        let port = node.url.rsplit_once(':').unwrap().1.to_owned();
        node.env.insert("FULEXO_PORT".into(), port);
        node.program = Some(program);
    }

    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.url.clone()).collect()
    }

    pub fn kill_node(&mut self, number: usize) {
        block_in_place(|| self.nodes[number].program.take().unwrap().kill());
    }

    /// Holds a node up, but not in the middle of a commit: the others would wait for it, and nothing would be decided that
    /// it could miss. Answers since when.
    pub async fn hold_up(&self, number: usize) -> Instant {
        let (pool, mut since) = (self.pool().await, Instant::now());
        eventually("it is held up between two commits", async || {
            since = Instant::now();
            self.nodes[number].program.as_ref().unwrap().signal("STOP");
            let goes_on = timeout(Duration::from_secs(3), others_commit(&pool)).await.is_ok();
            if !goes_on {
                self.resume(number);
            }
            goes_on
        })
        .await;
        pool.close().await;
        since
    }

    pub fn resume(&self, number: usize) {
        self.nodes[number].program.as_ref().unwrap().signal("CONT");
    }

    /// Cuts, or heals, all wires from a node to NATS.
    pub fn cut_nats(&self, number: usize, cut: bool) {
        for wire in &self.nodes[number].nats {
            if cut { wire.cut() } else { wire.heal() }
        }
    }

    /// Ends Postgres without a chance to write anything, and starts it again after a while.
    pub fn kill_postgres(&mut self, down: Duration) {
        block_in_place(|| {
            let mut postgres = self.postgres.take().unwrap();
            let pid = postgres.pid().to_string();
            let killed = std::process::Command::new("/bin/sh").args(["-c", r#"kill -s KILL "$0""#, &pid]).status();
            assert!(killed.unwrap().success());
            postgres.stop();
            drop(postgres);
            std::thread::sleep(down);
            self.postgres = Some(start_postgres(&self.dir));
        });
    }

    pub async fn pool(&self) -> PgPool {
        fulexo_api::app::connect(&application_url(self.postgres.as_ref().unwrap(), DATABASE), 6).await.unwrap()
    }

    /// An administrator, made by the operator's own verb.
    pub async fn admin(&self) -> Client {
        let email = "admin@example.com";
        let registered = block_in_place(|| {
            let mut env = self.nodes[0].env.clone();
            env.insert("FULEXO_NODE_NAME".into(), "register".into());
            let mut program = Program::start(&["register", "--email", email, "--role", "admin"], &env);
            let password = program.says("password  ");
            assert!(program.wait().status.success());
            password
        });
        let mut client = Client::new(&self.nodes[0].url);
        let answer = client.post("/v1/auth/login", json!({"email": email, "password": registered})).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        client.log_in_with(&answer);
        client
    }

    /// Returns when every node says that all of it works, and every projection has seen the whole log.
    pub async fn settle(&self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        for url in self.urls() {
            loop {
                let ready = Client::new(&url).try_send(hyper::Method::GET, "/health/ready", None, "").await;
                let state = match &ready {
                    Ok(answer) => {
                        let lags = answer.json["projections"].as_array().into_iter().flatten();
                        let caught_up = lags.clone().count() > 0 && lags.clone().all(|one| one["lag"] == json!(0));
                        if answer.status == 200 && answer.json["status"] == json!("ok") && caught_up {
                            break;
                        }
                        answer.text.clone()
                    }
                    Err(error) => error.clone(),
                };
                assert!(Instant::now() < deadline, "{url} does not settle: {state}");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Returns after so many commits that whoever waited for a turn at the log has had it.
async fn others_commit(pool: &PgPool) {
    let mut ends = BTreeSet::new();
    while ends.len() < 10 {
        ends.insert(feed::size(&mut pool.acquire().await.unwrap()).await.unwrap());
        sleep(Duration::from_millis(10)).await;
    }
}

fn start_postgres(dir: &DataDir) -> Postgres {
    Postgres::start(dir, &Options { settings: vec![("max_connections".into(), "100".into())] }).unwrap()
}
