//! Publishes one message, as in the README; waits for a subscriber first.
#![forbid(unsafe_code)]

use bus_client::Bus;

#[bus_client::message]
struct Tick {
    symbol: u32,
    price: f64,
    venue: String,
}

fn main() -> Result<(), bus_client::Error> {
    let bus = Bus::connect("feed")?;
    let mut ticks = bus.publisher::<Tick>("market/ticks")?;
    ticks.wait_for_subscribers(1, None)?;
    let tick = Tick {
        symbol: 7,
        price: 99.5,
        venue: "XETR".into(),
    };
    ticks.send(&tick)?;
    Ok(())
}
