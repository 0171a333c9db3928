//! Two topics and a timer in one task of a tokio runtime, fed by two other tasks; in earnest those are other processes.
#![forbid(unsafe_code)]

use std::time::Duration;

use bus_client::{AsyncPublisher, Bus, Error};

#[bus_client::message]
struct Tick {
    symbol: u32,
    price: f64,
}

#[bus_client::message]
struct Order {
    symbol: u32,
    who: String,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let bus = Bus::connect("desk")?;
    let ticks = bus.topic("market/ticks")?.end_with_publishers();
    let mut ticks = ticks.subscriber::<Tick>()?.into_async();
    let orders = bus.topic("market/orders")?.end_with_publishers();
    let mut orders = orders.subscriber::<Order>()?.into_async();
    tokio::spawn(feed(bus.publisher("market/ticks")?.into_async()));
    tokio::spawn(trade(bus.publisher("market/orders")?.into_async()));

    let mut second = tokio::time::interval(Duration::from_millis(10));
    let (mut ticking, mut trading) = (true, true);
    while ticking || trading {
        tokio::select! {
            tick = ticks.recv(), if ticking => match tick {
                Ok(tick) => println!("{} at {}", tick.symbol, tick.price),
                Err(Error::Ended { .. }) => ticking = false,
                Err(error) => return Err(error),
            },
            order = orders.recv(), if trading => match order {
                Ok(order) => println!("{} for {}", order.symbol, order.who),
                Err(Error::Ended { .. }) => trading = false,
                Err(error) => return Err(error),
            },
            _ = second.tick() => println!("still here"),
        }
    }
    Ok(())
}

async fn feed(mut ticks: AsyncPublisher<Tick>) -> Result<(), Error> {
    for symbol in 0..5 {
        let price = 99.5 + f64::from(symbol);
        ticks.send(&Tick { symbol, price }).await?;
        tokio::time::sleep(Duration::from_millis(8)).await;
    }
    Ok(())
}

async fn trade(mut orders: AsyncPublisher<Order>) -> Result<(), Error> {
    for symbol in 0..3 {
        let who = "XETR".into();
        orders.send(&Order { symbol, who }).await?;
        tokio::time::sleep(Duration::from_millis(12)).await;
    }
    Ok(())
}
