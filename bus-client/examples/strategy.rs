//! Prints the messages of one feed, as in the README, until the feed has ended.
#![forbid(unsafe_code)]

use bus_client::Bus;

#[bus_client::message]
struct Tick {
    symbol: u32,
    price: f64,
    venue: String,
}

fn main() -> Result<(), bus_client::Error> {
    let bus = Bus::connect("strategy")?;
    let ticks = bus
        .topic("market/ticks")?
        .end_with_publishers()
        .subscriber::<Tick>()?;
    for tick in &ticks {
        let tick = tick?;
        println!("{} {}", tick.price, tick.venue);
    }
    Ok(())
}
