//! Every example of `docs/policy.md` is a policy.

use std::path::Path;

use bus_daemon::policy::{Policy, Quota, Right, Subject};

/// The names of the examples, which this machine need not know.
const NAMES: [(&str, &str); 4] = [
    ("\"feed\"", "1001"),
    ("\"traders\"", "1002"),
    ("\"risk\"", "1003"),
    ("\"monitor\"", "1004"),
];

fn examples() -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/policy.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("```toml\n").skip(1);
    blocks
        .map(|block| {
            let text = block.split("```").next().unwrap().to_owned();
            NAMES
                .iter()
                .fold(text, |text, (name, id)| text.replace(name, id))
        })
        .collect()
}

#[test]
fn each_is_read_and_so_are_all_together() {
    let examples = examples();
    assert_eq!(examples.len(), 3);
    let file = Path::new("docs/policy.md");
    for example in &examples {
        Policy::parse(file, example, 0).unwrap_or_else(|e| panic!("{e}\n{example}"));
    }
    let all = Policy::parse(file, &examples.concat(), 0).unwrap();
    let user = |uid| Subject {
        uid,
        groups: vec![uid],
    };
    let topic = |name: &str| bus_core::TopicName::new(name).unwrap();
    let ticks = topic("market/ticks");
    assert!(all.decide(&user(1001), &ticks).may(Right::Publish));
    assert!(!all.decide(&user(1002), &ticks).stall());
    assert!(all.decide(&user(1003), &topic("orders")).stall());
    assert_eq!(all.topic(&ticks).unwrap().settings.publishers, Some(2));
    assert_eq!(all.limits(1001)[Quota::Bytes], 8 << 30);
    assert_eq!(all.limits(1002)[Quota::Registrations], 100);
}
