//! The system under the faults: three nodes of the program, NATS (a cluster if it is what fails), a Postgres that
//! writes to disk, and a standby if one takes over, all of the test's own; between each node and the others a wire that
//! can be cut.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use fulexo_dev_servers::{DataDir, Options, Postgres};
use fulexo_projections::feed;
use fulexo_tests::{
    Client, Cut, NatsCluster, NatsVersion, Program, application_url, env, eventually, free_port, own_dir, prepare,
};
use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};
use tokio::task::block_in_place;
use tokio::time::{sleep, timeout};

pub const NODES: usize = 3;
const DATABASE: &str = "fulexo_faults";

pub struct Ground {
    dir: DataDir,
    postgres: Option<Postgres>,
    /// The wire over which every node reaches Postgres.
    wire: Cut,
    standby: Option<Standby>,
    pub nats: NatsCluster,
    nodes: Vec<Node>,
}

/// The standby that every commit waits for.
struct Standby {
    dir: DataDir,
    /// The standby's Postgres, while it runs.
    postgres: Option<Postgres>,
}

struct Node {
    program: Option<Program>,
    env: BTreeMap<String, String>,
    url: String,
    nats: Vec<Cut>,
}

impl Ground {
    /// Starts with this many NATS servers, each of which keeps the log's copy.
    pub async fn start(servers: usize) -> Self {
        Self::with(servers, false).await
    }

    /// Starts with a standby for whose disk every commit waits.
    pub async fn start_with_standby() -> Self {
        Self::with(1, true).await
    }

    async fn with(servers: usize, has_standby: bool) -> Self {
        let nats = NatsCluster::start(NatsVersion::Current, servers).await;
        let dir = own_dir();
        // The file is there as if the server had run before: a server that is killed must return to its port.
        std::fs::write(dir.path().join("postgres.port"), free_port().to_string()).unwrap();
        let postgres = block_in_place(|| start_postgres(&dir));
        prepare(&postgres, DATABASE).await;
        let standby = if has_standby { Some(Standby::make(&dir, &postgres).await) } else { None };
        let (wire, url) = Cut::of(&application_url(&postgres, DATABASE)).await;
        let mut nodes = Vec::new();
        for number in 0..NODES {
            let (mut wires, mut urls) = (Vec::new(), Vec::new());
            for server in 0..servers {
                let (wire, url) = Cut::of(&nats.url_of(server)).await;
                wires.push(wire);
                urls.push(url);
            }
            let mut env = env(&url, &urls.join(","));
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
        let mut ground = Self { dir, postgres: Some(postgres), wire, standby, nats, nodes };
        for number in 0..NODES {
            ground.start_node(number);
        }
        ground
    }

    /// Starts a node on its former port.
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

    /// Suspends a node, but not in the middle of a commit: the others would wait for it, and nothing would be decided
    /// that it could miss. Returns the time at which it was suspended.
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

    /// Kills Postgres, so that it cannot write anything more, and starts it again after a while.
    pub fn kill_postgres(&mut self, down: Duration) {
        block_in_place(|| {
            self.end_postgres();
            std::thread::sleep(down);
            self.postgres = Some(start_postgres(&self.dir));
        });
    }

    fn end_postgres(&mut self) {
        let mut postgres = self.postgres.take().unwrap();
        let pid = postgres.pid().to_string();
        let killed = std::process::Command::new("/bin/sh").args(["-c", r#"kill -s KILL "$0""#, &pid]).status();
        assert!(killed.unwrap().success());
        postgres.stop();
    }

    /// Stops the standby: no commit is acknowledged any more.
    pub fn stop_standby(&mut self) {
        block_in_place(|| self.standby.as_mut().unwrap().postgres = None);
    }

    pub fn start_standby(&mut self) {
        let standby = self.standby.as_mut().unwrap();
        standby.postgres = Some(block_in_place(|| start_postgres(&standby.dir)));
    }

    /// Kills the primary, so that it cannot write anything more, and promotes the standby in its place.
    pub async fn fail_over(&mut self) {
        block_in_place(|| self.end_postgres());
        self.wire.cut();
        let standby = self.standby.take().unwrap();
        let promoted = standby.postgres.unwrap();
        let mut connection = PgConnection::connect(&promoted.superuser_url("postgres")).await.unwrap();
        let is_done: bool = sqlx::query_scalar("select pg_promote()").fetch_one(&mut connection).await.unwrap();
        assert!(is_done);
        self.wire.lead_to(promoted.port());
        self.wire.heal();
        (self.dir, self.postgres) = (standby.dir, Some(promoted));
    }

    pub async fn pool(&self) -> PgPool {
        fulexo_node::database::connect(&application_url(self.postgres.as_ref().unwrap(), DATABASE), 6).await.unwrap()
    }

    /// Returns an administrator, registered by the operator's own verb.
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
                // Between two looks, here and below.
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Standby {
    /// Makes a standby of the server in this directory, which waits for the standby from here on.
    async fn make(of: &DataDir, primary: &Postgres) -> Self {
        let dir = own_dir();
        let script = r#"mkdir -m 700 "$1/postgres"
            pg_basebackup --dbname "$2" --pgdata "$1/postgres/data" --write-recovery-conf --checkpoint fast
            cp "$0/postgres.password" "$1/postgres.password"
            chown -R --reference "$0/postgres/data" "$1/postgres""#;
        let superuser = primary.superuser_url("postgres");
        let made = block_in_place(|| {
            let mut shell = std::process::Command::new("/bin/sh");
            shell.args(["-ec", script]).args([of.path(), dir.path()]).arg(&superuser).status()
        });
        assert!(made.unwrap().success());
        let postgres = Some(block_in_place(|| start_postgres(&dir)));
        let mut connection = PgConnection::connect(&superuser).await.unwrap();
        for statement in ["alter system set synchronous_standby_names = '*'", "select pg_reload_conf()"] {
            sqlx::query(statement).execute(&mut connection).await.unwrap();
        }
        let state = "select coalesce(min(sync_state), '') from pg_stat_replication";
        while sqlx::query_scalar::<_, String>(state).fetch_one(&mut connection).await.unwrap() != "sync" {
            sleep(Duration::from_millis(50)).await;
        }
        Self { dir, postgres }
    }
}

/// Returns after enough commits that every caller that waited for a turn at the log has had it.
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
