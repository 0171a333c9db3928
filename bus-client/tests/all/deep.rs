//! Values that nest deeper than subscribers follow: no call sends one, and nothing of it is published.

use crate::common::stage::{Stage, connect, told};
use bus_client::{Bus, CoreError, Error};

#[bus_client::message]
#[derive(Clone)]
struct Node {
    next: Option<Box<Node>>,
}

#[bus_client::message]
#[derive(Clone)]
struct Tree {
    name: String,
    branches: Vec<Tree>,
}

/// A list of this many nodes.
fn list(nodes: usize) -> Node {
    (1..nodes).fold(Node { next: None }, |node, _| Node {
        next: Some(Box::new(node)),
    })
}

/// A tree of this height, as wide as `width` at its foot.
fn tree(height: usize, width: usize) -> Tree {
    let leaf = |n: usize| Tree {
        name: n.to_string(),
        branches: Vec::new(),
    };
    (1..height).fold(leaf(0), |tree, n| Tree {
        name: n.to_string(),
        branches: if n == 1 {
            (0..width).map(leaf).collect()
        } else {
            vec![tree]
        },
    })
}

/// Nodes of a list as it arrived.
fn length(node: &ArchivedNode) -> usize {
    let mut nodes = 1;
    let mut node = node;
    while let Some(next) = node.next.as_ref() {
        (nodes, node) = (nodes + 1, next);
    }
    nodes
}

fn stage() -> (Stage, Bus) {
    let stage = Stage::new();
    let bus = connect(&stage.path, true).unwrap();
    (stage, bus)
}

fn refused<T>(result: Result<T, Error>) {
    let error = result.err().expect("it was sent");
    assert!(
        matches!(
            error,
            Error::Topic {
                source: CoreError::TooDeep { limit: 255 },
                ..
            }
        ),
        "{error}"
    );
    told::<()>(Err(error), &["topic t", "deeper than 255 levels"]);
}

#[test]
fn a_list_of_256_nodes_is_refused_by_send_and_does_not_reach_a_subscriber() {
    let (_stage, bus) = stage();
    let subscriber = bus.subscriber::<Node>("t").unwrap();
    let mut publisher = bus.publisher::<Node>("t").unwrap();
    for (sequence, nodes) in [1, 100, 255].into_iter().enumerate() {
        assert_eq!(publisher.send(&list(nodes)).unwrap(), sequence as u64);
        assert_eq!(length(&subscriber.recv().unwrap()), nodes);
    }
    for nodes in [256, 300, 1000] {
        let list = list(nodes);
        refused(publisher.send(&list));
        refused(publisher.try_send(&list));
        refused(publisher.publish_batch([&list]));
        assert!(subscriber.try_recv().unwrap().is_none());
    }
    assert_eq!(
        publisher.send(&list(2)).unwrap(),
        3,
        "nothing was published"
    );
    assert_eq!(length(&subscriber.recv().unwrap()), 2);
}

#[test]
fn a_tree_is_refused_for_its_height_and_not_for_its_width() {
    let (_stage, bus) = stage();
    let subscriber = bus.subscriber::<Tree>("t").unwrap();
    let mut publisher = bus.publisher::<Tree>("t").unwrap();
    publisher.send(&tree(250, 500)).unwrap();
    assert!(subscriber.try_recv().unwrap().is_some());
    refused(publisher.send(&tree(300, 500)));
}

#[test]
fn a_state_refuses_what_its_readers_could_not_read() {
    let (_stage, bus) = stage();
    let mut writer = bus.state_writer::<Node>("t").unwrap();
    writer.set(&list(255)).unwrap();
    refused(writer.set(&list(256)));
    let mut state = bus.state::<Node>("t").unwrap();
    assert_eq!(state.get().unwrap().map(length), Some(255));
    drop((writer, state));

    let (_stage, bus) = stage();
    let mut writer = bus.keyed_state_writer::<u32, Node>("t").unwrap();
    // What a keyed state sends of a value lies in an enum: no level more.
    writer.set(1, list(255)).unwrap();
    refused(writer.set(2, list(256)));
    let mut state = bus.keyed_state::<u32, Node>("t").unwrap();
    assert_eq!(state.get(&1).unwrap().map(length), Some(255));
    assert!(state.get(&2).unwrap().is_none());
}
