//! A certificate is replaced while clients are at work.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use chrono::TimeDelta;
use fulexo_tests::eventually;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;

use crate::pki::{Authority, put};
use crate::{Served, connect, log, shows};

async fn open(port: u16, config: &Arc<ClientConfig>) -> SendRequest<Empty<Bytes>> {
    let stream = connect(port, "localhost", config).await.unwrap();
    let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn ask(sender: &mut SendRequest<Empty<Bytes>>) {
    let request = Request::get("/health/live").header("host", "localhost").body(Empty::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.into_body().collect().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_replaced_under_load_without_a_failed_request() {
    let served = Served::start().await;
    let (port, config) = (served.node.port(), served.authority.believed());
    let stop = Arc::new(AtomicBool::new(false));
    let answered: Arc<[AtomicUsize; 8]> = Arc::default();
    // Four keep their connection from before to after, and four open one for each request.
    let clients: Vec<_> = (0..answered.len())
        .map(|number| {
            let (stop, answered, config) = (Arc::clone(&stop), Arc::clone(&answered), Arc::clone(&config));
            tokio::spawn(async move {
                let mut kept = open(port, &config).await;
                while !stop.load(Ordering::Relaxed) {
                    if number % 2 == 0 {
                        ask(&mut kept).await;
                    } else {
                        ask(&mut open(port, &config).await).await;
                    }
                    answered[number].fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // This happens three times; after each, every client is answered again.
    for _ in 0..3 {
        let next = served.authority.issue(&["localhost"]);
        served.files.put(&next);
        eventually("the new certificate", async || shows(&served.node, &next, &served.authority.believed()).await)
            .await;
        let before: Vec<usize> = answered.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        eventually("answers after it", async || {
            clients.iter().any(tokio::task::JoinHandle::is_finished)
                || answered.iter().zip(&before).all(|(now, before)| now.load(Ordering::Relaxed) > *before)
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a request failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_is_not_sound_is_refused_once_and_the_one_before_stays() {
    log::keep();
    let served = Served::start().await;
    let config = served.authority.believed();
    let (cert, key) = (served.files.cert.to_str().unwrap(), served.files.key.to_str().unwrap());
    let (first, second) = (served.authority.issue(&["localhost"]), served.authority.issue(&["localhost"]));
    let expired = served.authority.until(&["localhost"], TimeDelta::days(-2));
    served.files.put(&first);
    eventually("the first", async || shows(&served.node, &first, &config).await).await;

    // First comes the new certificate without its key; and then no certificate at all, half of one, an old one.
    put(&served.files.cert, &second.chain);
    log::says(&["ERROR", "is refused", key, "is not the key of the first certificate"]).await;
    assert!(shows(&served.node, &first, &config).await);
    put(&served.files.cert, &second.chain[..200]);
    log::says(&["ERROR", "is refused", cert, "does not contain a valid PEM certificate"]).await;
    assert!(shows(&served.node, &first, &config).await);
    served.files.put(&expired);
    log::says(&["ERROR", "is refused", cert, "expired on"]).await;
    assert!(shows(&served.node, &first, &config).await);
    std::fs::remove_file(&served.files.cert).unwrap();
    log::says(&["ERROR", "is refused", cert, "No such file"]).await;
    assert!(shows(&served.node, &first, &config).await);

    // While another node looks often enough to take two more, this one does not repeat itself.
    let other = Served::start().await;
    for _ in 0..2 {
        let next = other.authority.issue(&["localhost"]);
        other.files.put(&next);
        eventually("another", async || shows(&other.node, &next, &other.authority.believed()).await).await;
    }
    // A certificate that returns complete is taken.
    served.files.put(&second);
    eventually("the second", async || shows(&served.node, &second, &config).await).await;
    let refusals = log::lines(&["ERROR", "is refused", served.files.cert.parent().unwrap().to_str().unwrap()]);
    assert_eq!(refusals.len(), 4, "{refusals:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_near_its_end_is_warned_of() {
    log::keep();
    let served = Served::start().await;
    let ending = |days| Authority::new().until(&["localhost"], TimeDelta::days(days));
    let (near, imminent) = (ending(17), ending(3));
    let day = |days| (fulexo_node::clock::now() + TimeDelta::days(days)).date_naive().to_string();
    served.files.put(&near);
    log::says(&["WARN", "the certificate expires soon", &day(17)]).await;
    served.files.put(&imminent);
    log::says(&["ERROR", "the certificate is about to expire", &day(3)]).await;
    assert_eq!(log::lines(&["WARN", "the certificate expires soon", &day(17)]).len(), 1);
}
