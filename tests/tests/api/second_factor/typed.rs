//! Codes as people type them, and whose a spent one is.

use super::{Owner, confirm, forget_the_last_code, leaves_of, present, recovery_codes, start, step_up, within_a_step};
use fulexo_tests::Node;

/// Returns six digits, written in other ways.
fn written(code: &str) -> Vec<String> {
    let (first, second) = code.split_at(3);
    let digits = |zero: char| -> String {
        let digit = |c: char| char::from_u32(u32::from(zero) + c.to_digit(10).unwrap()).unwrap();
        code.chars().map(digit).collect()
    };
    let gaps = [" ", "-", "\u{a0}", "\u{202f}", "\u{2009}", "\u{2011}", "–", "—", "−", "\n", "\t", " - ", "\u{200b}"];
    let spaced = gaps.into_iter().map(|gap| format!("{first}{gap}{second}"));
    let scripts = ['０', '٠', '۰', '०', '০', '๐', '\u{1d7ce}', '\u{1e950}'].map(digits);
    let around = [format!(" {code} "), format!("\u{feff}{code}"), code.chars().map(|c| format!("{c} ")).collect()];
    spaced.chain(scripts).chain(around).collect()
}

/// D1.
#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_right_however_its_digits_are_written_and_none_of_it_is_counted() {
    let node = Node::start().await;
    let client = node.customer().await;
    let (app, _) = start(&client).await;
    let confirmed = confirm(&client, &written(&app.code(0))[0]).await;
    assert_eq!(confirmed.status, 200, "{confirmed:?}");
    let ann = Owner { recovery: recovery_codes(&confirmed), client, app, secret: String::new() };
    for way in 0..written("000000").len() {
        let (challenge, code) = (ann.challenge(&node).await, ann.code(&node).await);
        let code = &written(&code)[way];
        let answer = present(&node, &challenge, code).await;
        assert_eq!(answer.status, 200, "{code:?}: {answer:?}");
    }
    forget_the_last_code(&node, ann.client.account).await;
    let answer = step_up(&ann.client, &written(&ann.app.code(1))[0]).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let failed = leaves_of(&node.database, ann.client.account, "authentication.failed").await;
    assert!(failed.is_empty(), "{failed:?}");
}

/// D1.
#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_code_is_right_with_the_dash_of_a_word_processor_and_in_any_case() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let wide = |c: char| if c.is_ascii_graphic() { char::from_u32(u32::from(c) + 0xfee0).unwrap() } else { c };
    let ways: [fn(&str) -> String; 5] = [
        |code| code.replace('-', "–"),
        |code| code.replace('-', " \u{2011} ").to_uppercase(),
        |code| code.replace('-', ""),
        |code| format!("\u{200e}{code}\u{a0}"),
        |code| code.replace('-', "−"),
    ];
    let typed = ways.iter().zip(&ann.recovery).map(|(way, code)| way(code));
    let wide: String = ann.recovery[9].chars().map(wide).collect();
    for code in typed.chain([wide]) {
        let answer = present(&node, &ann.challenge(&node).await, &code).await;
        assert_eq!(answer.status, 200, "{code:?}: {answer:?}");
    }
    assert!(leaves_of(&node.database, ann.client.account, "authentication.failed").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_code_is_wrong_and_counted_as_before() {
    let node = Node::start().await;
    let ann = Owner::customer(&node).await;
    let challenge = ann.challenge(&node).await;
    for code in ["", " ", "12345", "1234567", "+12345"] {
        let answer = present(&node, &challenge, code).await;
        assert_eq!((answer.status, answer.code()), (401, "invalid_credentials"), "{code:?}: {answer:?}");
    }
    let failed = leaves_of(&node.database, ann.client.account, "authentication.failed").await;
    assert_eq!(failed.len(), 5);
}

/// D20.
#[tokio::test(flavor = "multi_thread")]
async fn a_code_of_one_seed_spends_none_of_another() {
    let node = Node::start().await;
    let (ann, code) = within_a_step(async || {
        let ann = Owner::customer(&node).await;
        // Its code of this step is spent by now, and this one's is not.
        let (app, _) = start(&ann.client).await;
        let code = app.code(0);
        let confirmed = confirm(&ann.client, &code).await;
        assert_eq!(confirmed.status, 200, "{confirmed:?}");
        (ann, code)
    })
    .await;
    let challenge = ann.challenge(&node).await;
    assert_eq!(present(&node, &challenge, &code).await.status, 401, "it is spent by now, too");
    let failed = leaves_of(&node.database, ann.client.account, "authentication.failed").await;
    assert_eq!(failed.len(), 1, "{failed:?}");
}
