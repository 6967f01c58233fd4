//! Two handlers that are sold, in an actix application of one's own: no proxy.
//!
//! Settings come from prepaid402.toml and the environment, without `[upstream]` and `[[routes]]`. Without a Stripe account:
//! `prepaid402 stripe-sim`, then `STRIPE_SECRET_KEY=sk_test_prepaid402_sandbox
//! STRIPE_PUBLISHABLE_KEY=pk_test_prepaid402_sandbox PREPAID402_STRIPE__API_BASE=http://127.0.0.1:4404 cargo run --example embedded`.

use actix_web::{App, HttpServer, web};
use prepaid402::embed::{Embedded, Paid};

async fn joke(paid: Paid) -> String {
    format!(
        "How many decimals does it take to lose a cent? One, if it floats. (You paid {}.)\n",
        paid.price_text()
    )
}

async fn echo(paid: Paid, body: String) -> String {
    format!("{} says: {body}\n", paid.client())
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let paywall = Embedded::from_environment().await?;
    let (joke_price, echo_price) = (paywall.price("0.01")?, paywall.price("0.05")?);
    let billing = paywall.billing();
    let server = HttpServer::new(move || {
        App::new()
            .service(web::resource("/joke").wrap(joke_price.clone()).get(joke))
            .service(web::resource("/echo").wrap(echo_price.clone()).post(echo))
            .route("/health", web::get().to(async || "ok\n"))
            .configure(billing.clone())
    });
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:4402".to_owned());
    let server = server.bind(&address)?;
    println!("selling /joke and /echo on http://{address}");
    server.run().await?;
    paywall.stop().await;
    Ok(())
}
