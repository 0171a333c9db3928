//! Tasks of a tokio runtime wait for messages and room. Nothing but doorbells wakes them: a wait that lasts until its watchdog fails
//! the test.
//!
//! It is a program of its own, because it is built only with the feature `tokio`.

mod common;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use bus_client::{AsyncPublisher, AsyncSubscriber, Delivery, Error};
use common::hosted::Hosted;
use common::process::WATCHDOG;
use common::role::{Given, hear, play, say};
use common::roles::{HOST, clock};
use futures_core::Stream;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

#[test]
#[ignore = "what the other tests start as processes of their own"]
fn role() {
    play(&[HOST, ("echo", echo), ("victim", victim), ("idler", idler)]);
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn two_threads() -> Runtime {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap()
}

/// What comes of a future before the watchdog's time is over.
async fn within<F: Future>(future: F) -> F::Output {
    timeout(WATCHDOG, future).await.expect("a wake-up was lost")
}

/// Sends back what comes.
fn echo(given: &Given) {
    let bus = given.bus();
    one_thread().block_on(async {
        let pings = bus.topic("ping").unwrap().end_with_publishers();
        let mut pings = pings.subscriber::<u64>().unwrap().into_async();
        let mut pongs = bus.publisher::<u64>("pong").unwrap().into_async();
        say("joined");
        loop {
            let ping = match within(pings.recv()).await {
                Ok(ping) => ping.to_native(),
                Err(Error::Ended { .. }) => return,
                Err(error) => panic!("{error}"),
            };
            within(pongs.send(&ping)).await.unwrap();
        }
    });
}

/// Publishes one message, and stays until it is killed.
fn victim(given: &Given) {
    let bus = given.bus();
    let mut publisher = given.topic(&bus).publisher::<u64>().unwrap();
    publisher.send(&1).unwrap();
    assert_eq!(hear(), None);
}

/// Subscribes, and takes nothing.
fn idler(given: &Given) {
    let bus = given.bus();
    let _subscriber = given.topic(&bus).subscriber::<u64>().unwrap();
    assert_eq!(hear(), None);
}

fn pair(stage: &Hosted, depth: u32) -> (AsyncPublisher<u64>, AsyncSubscriber<u64>) {
    let topic = || {
        let topic = stage.bus.topic("t").unwrap().depth(depth);
        topic.end_with_publishers()
    };
    let subscriber = topic().subscriber().unwrap().into_async();
    (topic().publisher().unwrap().into_async(), subscriber)
}

#[test]
fn a_ping_pong_of_two_processes_loses_no_wake_up() {
    let stage = Hosted::new();
    let mut echo = stage.start("echo", &[]);
    echo.expect("joined");
    one_thread().block_on(async {
        let mut pongs = stage.bus.subscriber::<u64>("pong").unwrap().into_async();
        let mut pings = stage.bus.publisher::<u64>("ping").unwrap().into_async();
        for n in 0..20_000 {
            within(pings.send(&n)).await.unwrap();
            assert_eq!(*within(pongs.recv()).await.unwrap(), n);
        }
    });
    echo.finish();
}

#[test]
fn publisher_and_subscriber_that_wait_for_each_other_on_two_threads() {
    let stage = Hosted::new();
    let (mut publisher, mut subscriber) = pair(&stage, 2);
    let runtime = two_threads();
    let sender = runtime.spawn(async move {
        for n in 0..20_000 {
            assert_eq!(within(publisher.send(&n)).await.unwrap(), n);
        }
    });
    let receiver = runtime.spawn(async move {
        for n in 0..20_000_u64 {
            assert_eq!(*within(subscriber.recv()).await.unwrap(), n);
        }
        let end = within(subscriber.recv()).await.map(drop);
        assert!(matches!(end, Err(Error::Ended { .. })), "{end:?}");
    });
    runtime.block_on(async {
        sender.await.unwrap();
        receiver.await.unwrap();
    });
}

/// Gives other tasks a turn.
async fn turn() {
    tokio::task::yield_now().await;
}

#[test]
fn futures_that_are_dropped_lose_nothing_and_send_nothing() {
    let stage = Hosted::new();
    let (mut publisher, mut subscriber) = pair(&stage, 4);
    let (mut sends, mut receives) = (0, 0);
    one_thread().block_on(within(async {
        let sender = async {
            for n in 0..5_000_u64 {
                loop {
                    tokio::select! {
                        biased;
                        sent = publisher.send(&n) => break assert_eq!(sent.unwrap(), n),
                        () = turn() => sends += 1,
                    }
                }
            }
        };
        let receiver = async {
            for n in 0..5_000_u64 {
                loop {
                    tokio::select! {
                        biased;
                        received = subscriber.recv() => break assert_eq!(*received.unwrap(), n),
                        () = turn() => receives += 1,
                    }
                }
            }
        };
        tokio::join!(sender, receiver);
    }));
    println!("{sends} sends and {receives} receives were dropped");
    assert!(
        sends > 100 && receives > 100,
        "{sends} and {receives}: this shows nothing"
    );
}

#[test]
fn a_stream_gives_messages_that_go_to_other_tasks_and_ends() {
    let stage = Hosted::new();
    let (mut publisher, mut subscriber) = pair(&stage, 8);
    let runtime = two_threads();
    runtime.block_on(within(async move {
        let sender = tokio::spawn(async move {
            for n in 0..2_000 {
                publisher.send(&n).await.unwrap();
            }
        });
        let mut tasks = Vec::new();
        while let Some(message) = poll_fn(|cx| Pin::new(&mut subscriber).poll_next(cx)).await {
            let message = message.unwrap();
            // Dropped there, which gives the slot back and wakes the sender.
            tasks.push(tokio::spawn(async move { message.to_native() }));
        }
        sender.await.unwrap();
        assert_eq!(tasks.len(), 2_000);
        for (n, task) in (0..).zip(tasks) {
            assert_eq!(task.await.unwrap(), n);
        }
    }));
}

#[test]
fn a_thread_that_blocks_on_the_same_handle_and_tasks_take_turns() {
    let stage = Hosted::new();
    let (mut publisher, mut subscriber) = pair(&stage, 2);
    one_thread().block_on(within(async {
        for n in 0..200 {
            // The task parks, and gives up.
            {
                let mut receive = pin!(subscriber.recv());
                let pending = poll_fn(|cx| Poll::Ready(receive.as_mut().poll(cx).is_pending()));
                assert!(pending.await);
            }
            std::thread::scope(|scope| {
                scope.spawn(|| publisher.get_mut().send(&n).unwrap());
                assert_eq!(*subscriber.get_ref().recv().unwrap(), n);
            });
            let send = async {
                turn().await;
                publisher.send(&n).await.unwrap();
            };
            let receive = async { assert_eq!(*subscriber.recv().await.unwrap(), n) };
            tokio::join!(receive, send);
        }
    }));
}

#[test]
fn who_always_has_something_lets_other_tasks_in() {
    let stage = Hosted::new();
    let (mut publisher, mut subscriber) = pair(&stage, 1024);
    one_thread().block_on(within(async move {
        let busy = tokio::spawn(async move {
            loop {
                publisher.send(&1).await.unwrap();
                subscriber.recv().await.unwrap();
            }
        });
        tokio::time::sleep(Duration::from_millis(5)).await;
        busy.abort();
    }));
}

#[test]
fn the_kill_of_a_publisher_is_noticed_also_without_a_broker() {
    for broker in [true, false] {
        let mut stage = Hosted::new();
        let subscriber = stage.bus.topic("t").unwrap().end_with_publishers();
        let mut subscriber = subscriber.subscriber::<u64>().unwrap().into_async();
        let mut victim = stage.start("victim", &[]);
        one_thread().block_on(within(async {
            assert_eq!(*subscriber.recv().await.unwrap(), 1);
            // Parked before the kill.
            let mut receive = Box::pin(subscriber.recv());
            let pending = poll_fn(|cx| Poll::Ready(receive.as_mut().poll(cx).is_pending())).await;
            assert!(pending);
            if !broker {
                stage.host.kill();
                stage.host.reap();
            }
            let killed = clock();
            victim.kill();
            let end = receive.await.map(drop);
            assert!(matches!(end, Err(Error::Ended { .. })), "{end:?}");
            let delay = Duration::from_nanos(clock() - killed);
            println!("with a broker: {broker}, noticed after {delay:?}");
            assert!(!broker || delay < Duration::from_millis(50), "{delay:?}");
        }));
    }
}

#[test]
fn the_kill_of_the_only_subscriber_makes_room() {
    for broker in [true, false] {
        let mut stage = Hosted::new();
        let topic = stage.bus.topic("t").unwrap().depth(2);
        let mut publisher = topic.publisher::<u64>().unwrap();
        let mut idler = stage.start("idler", &[]);
        publisher.wait_for_subscribers(1, Some(WATCHDOG)).unwrap();
        let mut publisher = publisher.into_async();
        one_thread().block_on(within(async {
            publisher.send(&1).await.unwrap();
            publisher.send(&2).await.unwrap();
            let mut send = Box::pin(publisher.send(&3));
            let pending = poll_fn(|cx| Poll::Ready(send.as_mut().poll(cx).is_pending())).await;
            assert!(pending);
            if !broker {
                stage.host.kill();
                stage.host.reap();
            }
            idler.kill();
            assert_eq!(send.await.unwrap(), 2);
        }));
    }
}

#[test]
fn a_subscriber_that_stands_still_is_evicted_in_time() {
    let stage = Hosted::new();
    let topic = || {
        let topic = stage.bus.topic("t").unwrap().depth(2);
        topic.delivery(Delivery::Evict { after_us: 20_000 })
    };
    let _still = topic().subscriber::<u64>().unwrap();
    let mut publisher = topic().publisher::<u64>().unwrap().into_async();
    one_thread().block_on(within(async {
        for n in 0..4 {
            assert_eq!(publisher.send(&n).await.unwrap(), n);
        }
    }));
}

#[test]
fn a_wait_outside_of_a_runtime_is_an_error() {
    let stage = Hosted::new();
    let (_publisher, mut subscriber) = pair(&stage, 2);
    let mut receive = pin!(subscriber.recv());
    let mut context = Context::from_waker(Waker::noop());
    let Poll::Ready(Err(error)) = receive.as_mut().poll(&mut context) else {
        panic!("it waits without a runtime");
    };
    assert!(error.to_string().contains("runtime"), "{error}");
}

/// Counts how often a task is told to poll again.
#[derive(Default)]
struct Wakes(AtomicUsize);

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        // ORDERING: a count, read by the thread that was woken or never.
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// Polls a future twice with a task of its own, in a runtime. A future that waits is polled again when
/// something has happened, and nothing has.
fn waits_quietly(runtime: &Runtime, future: Pin<&mut impl Future>) {
    let wakes = Arc::new(Wakes::default());
    let _guard = runtime.enter();
    let waker = Waker::from(wakes.clone());
    let polled = future.poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending(), "nothing has come, and it is over");
    // ORDERING: of this thread.
    let wakes = wakes.0.load(Ordering::Relaxed);
    assert_eq!(wakes, 0, "it polls for ever instead of waiting");
}

/// Runs this on a thread of its own: a handle that never gives its thread back fails the test.
fn on_a_thread(work: impl FnOnce() + Send + 'static) {
    let (done, is_done) = channel();
    let worker = std::thread::spawn(move || {
        work();
        done.send(()).unwrap();
    });
    match is_done.recv_timeout(WATCHDOG) {
        Err(RecvTimeoutError::Timeout) => panic!("the thread was not given back"),
        _ => worker.join().unwrap(),
    }
}

/// The first runtime is gone, or is there and driven by nobody.
#[test]
fn a_subscriber_that_is_awaited_in_a_second_runtime_is_woken_there() {
    for gone in [true, false] {
        on_a_thread(move || {
            let stage = Hosted::new();
            let (mut publisher, mut subscriber) = pair(&stage, 2);
            let first = one_thread();
            waits_quietly(&first, pin!(subscriber.recv()));
            let kept = (!gone).then_some(first);
            let second = one_thread();
            waits_quietly(&second, pin!(subscriber.recv()));
            let received = second.block_on(within(async {
                let sender = tokio::spawn(async move { publisher.send(&7).await.map(drop) });
                let received = subscriber.recv().await.map(|n| n.to_native());
                sender.await.unwrap().unwrap();
                received
            }));
            assert_eq!(received.unwrap(), 7);
            drop(kept);
        });
    }
}

#[test]
fn a_publisher_that_is_awaited_in_a_second_runtime_is_woken_there() {
    for gone in [true, false] {
        on_a_thread(move || {
            let stage = Hosted::new();
            let (mut publisher, mut subscriber) = pair(&stage, 2);
            publisher.try_send(&0).unwrap();
            publisher.try_send(&1).unwrap();
            let first = one_thread();
            waits_quietly(&first, pin!(publisher.send(&2)));
            let kept = (!gone).then_some(first);
            let second = one_thread();
            waits_quietly(&second, pin!(publisher.send(&2)));
            let sent = second.block_on(within(async {
                let receiver = tokio::spawn(async move {
                    for n in 0..3_u64 {
                        assert_eq!(*subscriber.recv().await.unwrap(), n);
                    }
                });
                let sent = publisher.send(&2).await;
                receiver.await.unwrap();
                sent
            }));
            assert_eq!(sent.unwrap(), 2);
            drop(kept);
        });
    }
}

/// A task that waits in the runtime's own last moments: nobody would wake it.
#[test]
fn a_wait_in_a_runtime_that_has_shut_down_is_an_error() {
    on_a_thread(|| {
        let stage = Hosted::new();
        let (_publisher, mut subscriber) = pair(&stage, 2);
        let runtime = one_thread();
        let handle = runtime.handle().clone();
        waits_quietly(&runtime, pin!(subscriber.recv()));
        drop(runtime);
        let _guard = handle.enter();
        let mut context = Context::from_waker(Waker::noop());
        let polled = pin!(subscriber.recv()).poll(&mut context);
        let Poll::Ready(Err(error)) = polled else {
            panic!("it waits in a runtime that is gone");
        };
        assert!(matches!(error, Error::Selector { .. }), "{error}");
    });
}
