//! `turnstile demo SYSTEM`: the system's demo script, played by a real client.

mod homemovie;
mod load;
mod outerpark;

use std::fmt::Display;
use std::future::Future;
use std::time::{Duration, Instant};

use proto::mypage::v1::my_page_service_client::MyPageServiceClient;
use proto::mypage::v1::{GetMyOrderRequest, MyOrder};
use proto::payment::v1::payment_service_client::PaymentServiceClient;
use proto::payment::v1::{ListPaymentsRequest, Payment, payment};
use tonic::Code;
use tonic::transport::Channel;

use crate::Outcome;
use crate::cli::{Cli, DemoOptions, System};
use crate::client::{self, Failure, SignedIn};
use crate::settings::{self, Config, out};
use crate::system;

/// How long a step waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Plays the script, against a private system unless there is a target.
pub(crate) async fn play(cli: &Cli, options: DemoOptions) -> Outcome {
    let stage = match &options.target {
        Some(target) => {
            Stage { url: target.clone(), channel: client::connect(target).await?, private: None }
        }
        None => Stage::private(settings::read(cli, None)?).await?,
    };
    let begun = Instant::now();
    let outcome = match options.system {
        System::Homemovie => match homemovie::play(&stage).await {
            Ok(()) => load::slow_payment(&stage, &options).await,
            Err(failure) => Err(failure),
        },
        System::Outerpark => outerpark::play(&stage).await,
    };
    if let Some(private) = stage.private {
        private.mesh.shut_down().await;
    }
    outcome?;
    out(format_args!("all as it should be, in {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// Where a script is played.
struct Stage {
    url: String,
    channel: Channel,
    private: Option<Private>,
}

/// A system of its own, in a folder that goes away with it.
struct Private {
    mesh: mesh::Mesh,
    config: Config,
    admin_password: String,
    _listening: mesh::Listening,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn private(mut config: Config) -> Result<Self, Failure> {
        mesh::telemetry::start("warn").map_err(Failure::from)?;
        let folder = tempfile::tempdir()?;
        let admin_password = mesh::auth::random_text();
        config.data = folder.path().to_owned();
        config.empty = false;
        config.identity.admin_password = Some(mesh::config::Secret::new(&admin_password));
        let mesh = mesh::Mesh::new(config.options())?;
        let listening = mesh.listen(([127, 0, 0, 1], 0).into()).await?;
        system::start(&mesh, &config).await?;
        mesh.settle(PATIENCE).await;
        let url = format!("http://{}", listening.address());
        out(format_args!("a private system on {}, in a temporary folder", listening.address()));
        let channel = client::connect(&url).await?;
        let private =
            Private { mesh, config, admin_password, _listening: listening, _folder: folder };
        Ok(Self { url, channel, private: Some(private) })
    }

    /// The first admin, signed in.
    async fn admin(&self) -> Result<SignedIn, Failure> {
        let password = match &self.private {
            Some(private) => private.admin_password.clone(),
            None => client::admin_password()?,
        };
        let (_, admin) = client::sign_in(&self.channel, "admin@localhost", &password).await?;
        Ok(admin)
    }
}

/// Prints a step and what it saw.
fn saw(step: u32, what: &str, seen: impl Display) {
    out(format_args!("{step}  {what:<44} {seen}"));
}

/// Fails the script when something is not as it should be.
fn expect(as_it_should: bool, what: impl Display) -> Result<(), Failure> {
    if as_it_should { Ok(()) } else { Err(format!("not as it should be: {what}").into()) }
}

/// Waits until `look` finds something.
async fn wait_for<T, F, W>(what: &str, look: F) -> Result<T, Failure>
where
    F: FnMut() -> W,
    W: Future<Output = Result<Option<T>, Failure>>,
{
    client::wait_for(PATIENCE, what, look).await
}

/// Waits until my page has an order in this state, and its payment in that one.
async fn my_page(
    customer: &SignedIn,
    name: &str,
    state: &str,
    payment: &str,
) -> Result<MyOrder, Failure> {
    wait_for(&format!("my page shows {state}, {payment}"), || async {
        let row = row_of(customer, name).await?;
        Ok(row.filter(|row| row.state == state && row.payment_state == payment))
    })
    .await
}

/// An order's row in my page, if there is one.
async fn row_of(customer: &SignedIn, name: &str) -> Result<Option<MyOrder>, Failure> {
    let request = GetMyOrderRequest { name: name.to_owned(), min_revision: String::new() };
    match MyPageServiceClient::new(customer.clone()).get_my_order(request).await {
        Ok(answer) => Ok(answer.into_inner().my_order),
        Err(status) if status.code() == Code::NotFound => Ok(None),
        Err(status) => Err(status.into()),
    }
}

/// Waits until an order's payment is in this state.
async fn payment_of(
    customer: &SignedIn,
    order: &str,
    state: payment::State,
) -> Result<Payment, Failure> {
    wait_for(&format!("the payment is {}", state.as_str_name()), || async {
        let request =
            ListPaymentsRequest { order: order.to_owned(), ..ListPaymentsRequest::default() };
        let answer = PaymentServiceClient::new(customer.clone()).list_payments(request).await?;
        Ok(answer.into_inner().payments.into_iter().find(|payment| payment.state() == state))
    })
    .await
}
