//! What the faults happen to: three nodes of the program, a cluster of three NATS servers, one Postgres that writes to
//! disk, all of the test's own; between each node and its NATS a wire that can be cut.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use fulexo_api::private::{DataDir, Options, Postgres};
use fulexo_api::schema;
use fulexo_tests::{Client, Cut, NatsCluster, NatsVersion, Program};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool};
use tokio::task::block_in_place;
use tokio::time::sleep;

pub const NODES: usize = 3;
const OWNER: &str = "fulexo_owner";
const APPLICATION: &str = "fulexo";
const ROLE_PASSWORD: &str = "only-for-tests";
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
    pub async fn start(name: &str) -> Self {
        // It also makes the directory that everything of this process is in.
        let nats = NatsCluster::start(NatsVersion::Current, 3).await;
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../target/clusters")
            .join(std::process::id().to_string())
            .join(format!("faults-{name}"));
        std::fs::create_dir_all(&path).unwrap();
        let dir = DataDir::open(&path).unwrap();
        let postgres = block_in_place(|| start_postgres(&dir));
        prepare(&postgres).await;
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let (mut wires, mut urls) = (Vec::new(), Vec::new());
            for server in 0..3 {
                let (wire, url) = Cut::of(&nats.url_of(server)).await;
                wires.push(wire);
                urls.push(url);
            }
            let env = env(&postgres, number, &urls.join(","));
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

    /// Sends a node a signal by its short name.
    pub fn signal(&self, number: usize, signal: &str) {
        self.nodes[number].program.as_ref().unwrap().signal(signal);
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
        fulexo_api::app::connect(&role_url(self.postgres.as_ref().unwrap(), APPLICATION), 6).await.unwrap()
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
        let deadline = Instant::now() + Duration::from_secs(60);
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

fn start_postgres(dir: &DataDir) -> Postgres {
    Postgres::start(dir, &Options { settings: vec![("max_connections".into(), "100".into())] }).unwrap()
}

fn role_url(postgres: &Postgres, role: &str) -> String {
    postgres.url(role, ROLE_PASSWORD, DATABASE)
}

async fn prepare(postgres: &Postgres) {
    let mut connection = PgConnection::connect(&postgres.superuser_url("postgres")).await.unwrap();
    for statement in [
        format!("create role {OWNER} login createrole password '{ROLE_PASSWORD}'"),
        format!("create role {APPLICATION} login password '{ROLE_PASSWORD}'"),
        format!("create database {DATABASE} owner {OWNER}"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut connection).await.unwrap();
    }
    schema::migrate(&role_url(postgres, OWNER), APPLICATION).await.unwrap();
}

fn env(postgres: &Postgres, number: usize, nats: &str) -> BTreeMap<String, String> {
    [
        ("DATABASE_URL", role_url(postgres, APPLICATION).as_str()),
        ("NATS_URL", nats),
        ("FULEXO_NATS_REPLICAS", "3"),
        ("FULEXO_NODE_NAME", &format!("node-{number}")),
        ("FULEXO_PORT", "0"),
        ("FULEXO_RATE_LIMITS", "off"),
        ("JWT_SECRET", "a secret of sixty-four characters, as the security document says!"),
        ("ENCRYPTION_KEY", "abcdefghijklmnopqrstuvwxyz012345"),
        ("FULEXO_BCRYPT_COST", "4"),
        ("FULEXO_DATABASE_CONNECTIONS", "16"),
        ("FULEXO_LOG", "warn"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}
