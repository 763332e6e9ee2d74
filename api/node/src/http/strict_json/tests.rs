//! Tests of the faults that are reported for a body. No shape of a body may cost more than its bytes.

use std::time::{Duration, Instant};

use poem_openapi::registry::Registry;
use poem_openapi::types::{ParseFromJSON, Type};
use poem_openapi::{Enum, Object};
use serde_json::json;

use super::*;

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct Order {
    id: uuid::Uuid,
    #[oai(validator(min_length = 2, max_length = 4))]
    name: String,
    #[oai(validator(minimum(value = "1"), maximum(value = "9", exclusive)))]
    count: i32,
    note: Option<String>,
    #[oai(validator(max_items = 50))]
    lines: Vec<Line>,
    colour: Option<Colour>,
}

#[derive(Object)]
#[oai(deny_unknown_fields)]
struct Line {
    price: f64,
    due: Option<chrono::DateTime<chrono::Utc>>,
}

#[derive(Enum)]
#[oai(rename_all = "snake_case")]
enum Colour {
    Red,
    Blue,
}

fn schema_of<T: Type>() -> BodySchema {
    let mut registry = Registry::new();
    T::register(&mut registry);
    BodySchema::new(T::schema_ref(), Arc::new(registry.schemas), T::IS_REQUIRED)
}

fn faults_of(body: &str) -> Vec<(String, String)> {
    let faults = schema_of::<Order>().read(body.as_bytes()).err().unwrap_or_default();
    faults.into_iter().map(|fault| (fault.pointer, fault.detail)).collect()
}

fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
    list.iter().map(|(one, other)| ((*one).to_owned(), (*other).to_owned())).collect()
}

fn sound() -> Value {
    json!({
        "id": uuid::Uuid::nil(), "name": "abc", "count": 1, "note": null,
        "lines": [{"price": 1.5, "due": "2026-01-01T00:00:00Z"}, {"price": -7}], "colour": "red"
    })
}

#[test]
fn every_fault_is_named_at_once() {
    let body = r#"{
        "id": "7", "name": "x", "count": 9, "note": 5, "lines": [{"price": 1}, {"due": "soon"}, 3],
        "colour": "green", "extra/~": 1
    }"#;
    assert_eq!(
        faults_of(body),
        pairs(&[
            ("/id", "must be a UUID"),
            ("/name", "must have at least 2 characters"),
            ("/count", "must be at most 9"),
            ("/note", "must be of type string"),
            ("/lines/1/due", "must be a time such as 2026-11-01T12:00:00Z (RFC 3339)"),
            ("/lines/1/price", "is required"),
            ("/lines/2", "must be of type object"),
            ("/colour", "must be one of red, blue"),
            ("/extra~1~0", "is unknown"),
        ])
    );
}

#[test]
fn an_absent_body_is_one_fault_unless_it_may_be_absent() {
    assert_eq!(faults_of(""), pairs(&[("", "must be of type object")]));
    assert_eq!(faults_of("null"), pairs(&[("", "must be of type object")]));
    assert_eq!(schema_of::<Option<Order>>().read(b""), Ok(Value::Null));
    assert!(schema_of::<Option<Order>>().read(b"null").is_err(), "a null is a body");
}

#[test]
fn what_has_no_faults_is_what_serde_json_makes_of_it() {
    let read = schema_of::<Order>().read(sound().to_string().as_bytes()).unwrap();
    assert!(Order::parse_from_json(Some(read.clone())).is_ok());
    assert_eq!(read, sound());
    let escaped = sound().to_string().replace("abc", r"a\u00e9\n");
    assert_eq!(schema_of::<Order>().read(escaped.as_bytes()).unwrap()["name"], "aé\n");
}

#[test]
fn a_required_member_that_is_null_or_absent_is_one_fault() {
    let mut body = sound();
    body["count"] = Value::Null;
    body.as_object_mut().unwrap().remove("name");
    assert_eq!(faults_of(&body.to_string()), pairs(&[("/count", "is required"), ("/name", "is required")]));
}

#[test]
fn a_name_given_twice_is_found_wherever_it_is_known() {
    let body = sound().to_string();
    let twice = |more: &str| faults_of(&body.replacen('{', more, 1));
    assert_eq!(twice(r#"{"note": "x", "#), pairs(&[("/note", "must be given only once")]));
    // Escapes do not hide it, nor does a null.
    assert_eq!(twice(r#"{"n\u006fte": null, "#), pairs(&[("/note", "must be given only once")]));
    let line = body.replace(r#"{"due""#, r#"{"price": 1, "due""#);
    assert_eq!(faults_of(&line), pairs(&[("/lines/0/price", "must be given only once")]));
}

#[test]
fn what_is_no_json_is_refused_by_its_place_alone() {
    let deep = "[".repeat(200) + &"]".repeat(200);
    for text in ["{", "1 2", r#"{"a" 1}"#, "nul", r#"{"name": "hunter2"#, "\u{feff}{}", r#"{"count": 1e999}"#] {
        let faults = faults_of(text);
        let [(pointer, detail)] = faults.as_slice() else { panic!("{text}: {faults:?}") };
        assert!(pointer.is_empty() && detail.starts_with("is not valid JSON: "), "{text}: {detail}");
        assert!(!detail.contains("hunter2"), "{detail}");
    }
    assert!(!faults_of(&deep).is_empty() && !faults_of(&format!(r#"{{"lines": {deep}}}"#)).is_empty());
    assert!(schema_of::<Order>().read(b"{\"name\": \"\xff\"}").is_err(), "not UTF-8");
}

#[test]
fn the_answer_is_bounded_however_large_the_body() {
    let many: Map<String, Value> = (0..5_000).map(|n| (format!("extra{n}"), Value::Null)).collect();
    assert_eq!(faults_of(&Value::Object(many).to_string()).len(), MAX_FAULTS);
    let long = format!(r#"{{"{}": null}}"#, "x".repeat(10_000));
    assert!(faults_of(&long).iter().all(|(pointer, _)| pointer.len() <= MAX_NAME));
}

/// A generator of bodies, from a seed (SplitMix64).
struct Shapes(u64);

impl Shapes {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % bound.max(1) as u64).unwrap()
    }

    fn of<'t>(&mut self, choices: &[&'t str]) -> &'t str {
        choices[self.below(choices.len())]
    }

    /// Returns some JSON of about so many bytes, of a shape that is hard on somebody.
    fn value(&mut self, size: usize, depth: usize) -> String {
        if size < 8 || depth > 4 {
            return self.of(&["0", "[]", "{}", r#""""#, "null", "-0.0", "true", "1e300"]).to_owned();
        }
        match self.below(9) {
            0 => format!("\"{}\"", self.text(size)),
            1 => "9".repeat(size),
            2 => format!("0.{}1e-{}", "0".repeat(size / 2), "0".repeat(size / 2)),
            3 => {
                let deep = self.below(140).min(size / 2);
                "[".repeat(deep) + &"]".repeat(deep)
            }
            4 => {
                let deep = self.below(140).min(size / 6);
                r#"{"":"#.repeat(deep) + "0" + &"}".repeat(deep)
            }
            5 => {
                let item = self.value(1, 9);
                format!("[{}]", vec![item.as_str(); size / (item.len() + 1)].join(","))
            }
            6 => {
                let name = self.name(0);
                let member = format!("{name}:{}", self.value(1, 9));
                format!("{{{}}}", vec![member.as_str(); size / (member.len() + 1)].join(","))
            }
            7 => {
                let members: Vec<String> =
                    (0..size / 12).map(|number| format!("\"{number:x}\":{}", self.value(1, 9))).collect();
                format!("{{{}}}", members.join(","))
            }
            // The long name on the way down.
            _ => {
                let long = self.below(size);
                let name = self.name(long);
                format!("{{{name}:{}}}", self.value(size - long, depth + 1))
            }
        }
    }

    fn text(&mut self, size: usize) -> String {
        let unit = self.of(&["x", r"\u0061", r"\\", r"\ud83d\ude00", "é", "~", "/"]);
        unit.repeat(size / unit.len())
    }

    /// A member's name: one that is known, or about so long.
    fn name(&mut self, size: usize) -> String {
        match self.below(2) {
            0 => format!("\"{}\"", self.text(size)),
            _ => self.of(&[r#""lines""#, r#""id""#, r#""price""#, r#""count""#, r#""\u006eote""#]).to_owned(),
        }
    }

    fn body(&mut self, size: usize) -> String {
        match self.below(3) {
            0 => self.value(size, 0),
            1 => format!(r#"{{"lines":{}}}"#, self.value(size - 10, 0)),
            _ => {
                let lines = [r#"{"price":1}"#, r#"{"price":0,"price":0}"#, r#"{"due":""}"#, r#"{"":[]}"#];
                let line = self.of(&lines);
                format!(r#"{{"lines":[{}]}}"#, vec![line; size / (line.len() + 1)].join(","))
            }
        }
    }
}

/// Bytes that a value holds on to.
fn weight(value: &Value) -> usize {
    size_of::<Value>()
        + match value {
            Value::Null | Value::Bool(_) | Value::Number(_) => 0,
            Value::String(text) => text.capacity(),
            Value::Array(items) => items.iter().map(weight).sum(),
            Value::Object(members) => members.iter().map(|(name, value)| 64 + name.len() + weight(value)).sum(),
        }
}

/// Counts the bytes that are kept, and asks the clock about gross deviations alone: a quadratic reader takes seconds.
#[test]
fn no_shape_of_a_body_costs_more_than_its_bytes() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    let (mut shapes, schema) = (Shapes(seed), schema_of::<Order>());
    for number in 0..200 {
        let body = shapes.body(64 * 1024);
        let quickest = (0..3).map(|_| {
            let began = Instant::now();
            let outcome = schema.read(body.as_bytes());
            let took = began.elapsed();
            match outcome {
                Ok(value) => assert!(weight(&value) <= 4 * 64 * 1024, "shape {number} of seed {seed}"),
                Err(faults) => {
                    let said: usize = faults.iter().map(|fault| fault.pointer.len() + fault.detail.len()).sum();
                    assert!(!faults.is_empty() && faults.len() <= MAX_FAULTS, "shape {number} of seed {seed}");
                    assert!(said <= MAX_FAULTS * (2 * MAX_NAME + 100), "shape {number} of seed {seed}: {said}");
                }
            }
            took
        });
        let quickest = quickest.min().unwrap();
        assert!(quickest < Duration::from_millis(200), "shape {number} of seed {seed}: {quickest:?}");
    }
}
