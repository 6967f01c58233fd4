//! The server of a bench with the paywall inside, as a program of its own: the same fixed answer as the upstream of the
//! others, free and sold, from a handler.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use actix_web::{App, HttpResponse, HttpServer, web};

use super::servers::{FREE_PATH, PAID_PATH};
use super::upstream::BODY;
use crate::config::{LoadSource, load_embedded};
use crate::embed::Embedded;

/// Run the server that `bench` measures as "embedded".
#[derive(Debug, clap::Args)]
pub struct BenchEmbeddedArgs {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Where it listens
    #[arg(long, value_name = "ADDR")]
    listen: SocketAddr,
}

async fn answer() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(BODY)
}

/// Runs until SIGINT or SIGTERM.
pub async fn run(args: BenchEmbeddedArgs) -> ExitCode {
    match serve(args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(args: BenchEmbeddedArgs) -> Result<(), Box<dyn std::error::Error>> {
    let settings = load_embedded(&LoadSource { config_file: Some(args.config) })?;
    crate::cli::start_logging(&settings.config.log.filter, false);
    let paywall = Embedded::start(settings).await?;
    let price = paywall.price("0.01")?;
    let billing = paywall.billing();
    HttpServer::new(move || {
        App::new()
            .route(FREE_PATH, web::get().to(answer))
            .service(web::resource(PAID_PATH).wrap(price.clone()).get(answer))
            .configure(billing.clone())
    })
    .bind(args.listen)
    .map_err(|error| crate::app::StartError::Listen(args.listen, error))?
    .run()
    .await?;
    paywall.stop().await;
    Ok(())
}
