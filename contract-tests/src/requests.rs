//! A valid request for every method. A method that is not in here fails the tests that walk over all methods.

use mesh_testing::request_id;
use proto::homemovie::app::v1 as app;
use proto::homemovie::movie::v1 as movie;
use proto::identity::v1 as id;
use proto::mesh::v1 as kit;
use proto::mypage::v1 as page;
use proto::notice::v1 as told;
use proto::outerpark::musical::v1 as musical;
use proto::outerpark::reservation::v1 as desk;
use proto::payment::v1 as paid;
use rand::Rng as _;

use crate::world::{EMAIL, PASSWORD, World, in_days, won};

impl World {
    /// A request that the method carries out, from who may call it; each time a new one.
    pub fn valid(&self, method: &str) -> Option<Vec<u8>> {
        let service = method.split('/').next()?;
        match service.rsplit('.').next()? {
            "IdentityService" => self.of_identity(method),
            "PaymentService" => self.of_payment(method),
            "MovieApplicationService" | "MovieService" => self.of_homemovie(method),
            "MusicalService" | "ReservationService" => self.of_outerpark(method),
            "MyPageService" | "NoticeService" => self.of_views(method),
            "EventService" | "OperationsService" => of_the_kit(method),
            _ => None,
        }
    }

    fn of_identity(&self, method: &str) -> Option<Vec<u8>> {
        let (request_id, name) = (request_id(), self.customer.id.to_string());
        let [to_refresh, to_sign_out] = self.refresh_tokens.clone();
        let password = PASSWORD.to_owned();
        Some(match method.rsplit('/').next()? {
            "SignUp" => {
                let email = format!("{}@example.org", mesh::uuid());
                let (display_name, language_code) = ("Kim".to_owned(), "ko".to_owned());
                encode(id::SignUpRequest { email, password, display_name, language_code })
            }
            "SignIn" => encode(id::SignInRequest { email: EMAIL.to_owned(), password }),
            "RefreshToken" => encode(id::RefreshTokenRequest { refresh_token: to_refresh }),
            "SignOut" => encode(id::SignOutRequest { refresh_token: to_sign_out }),
            "GetMyAccount" => encode(id::GetMyAccountRequest {}),
            "GetAccount" => encode(id::GetAccountRequest { name }),
            "GrantRole" => {
                let role = id::Role::Customer.into();
                encode(id::GrantRoleRequest { request_id, name, role })
            }
            "RotateSigningKey" => encode(id::RotateSigningKeyRequest { request_id }),
            "GetJwks" => encode(id::GetJwksRequest {}),
            _ => return None,
        })
    }

    fn of_payment(&self, method: &str) -> Option<Vec<u8>> {
        let (request_id, customer) = (request_id(), self.customer.id.to_string());
        let order = new("movieApplications");
        Some(match method.rsplit('/').next()? {
            "Pay" => encode(paid::PayRequest { request_id, order, customer, amount: won(15_000) }),
            "CancelPayment" => encode(paid::CancelPaymentRequest {
                request_id,
                order,
                customer,
                reason: "CANCELLED".to_owned(),
                refund: won(10_000),
            }),
            "GetPaymentByOrder" => {
                encode(paid::GetPaymentByOrderRequest { order: self.applications[0].clone() })
            }
            "GetPayment" => encode(paid::GetPaymentRequest { name: self.payment.clone() }),
            "ListPayments" => encode(paid::ListPaymentsRequest {
                page_size: 1,
                order: self.applications[0].clone(),
                ..Default::default()
            }),
            _ => return None,
        })
    }

    fn of_homemovie(&self, method: &str) -> Option<Vec<u8>> {
        let request_id = request_id();
        let [application, to_cancel] = self.applications.clone();
        Some(match method.rsplit('/').next()? {
            "PickMovie" => encode(app::PickMovieRequest { request_id, movie: self.film.clone() }),
            "CancelMovieApplication" => {
                encode(app::CancelMovieApplicationRequest { request_id, name: to_cancel })
            }
            "GetMovieApplication" => encode(app::GetMovieApplicationRequest { name: application }),
            "ListMovieApplications" => {
                encode(app::ListMovieApplicationsRequest { page_size: 1, ..Default::default() })
            }
            "WatchMovieApplication" => encode(app::WatchMovieApplicationRequest {
                name: application,
                ..Default::default()
            }),
            "RegisterMovie" => encode(movie::RegisterMovieRequest {
                request_id,
                title: "Another".to_owned(),
                price: won(10_000),
                media: "https://media.example.org/another".to_owned(),
            }),
            "RepriceMovie" => encode(movie::RepriceMovieRequest {
                request_id,
                name: self.shelf_film.clone(),
                price: won(12_000),
            }),
            "WithdrawMovie" => {
                encode(movie::WithdrawMovieRequest { request_id, name: self.shelf_film.clone() })
            }
            "GetMovie" => encode(movie::GetMovieRequest { name: self.film.clone() }),
            "ListMovies" => encode(movie::ListMoviesRequest { page_size: 1, ..Default::default() }),
            "WatchMovie" => {
                encode(movie::WatchMovieRequest { request_id, movie_application: application })
            }
            "GetMoviePurchase" => {
                encode(movie::GetMoviePurchaseRequest { movie_application: application })
            }
            _ => return None,
        })
    }

    fn of_outerpark(&self, method: &str) -> Option<Vec<u8>> {
        let request_id = request_id();
        let [reservation, to_cancel] = self.reservations.clone();
        let (name, shelf) = (self.musical.clone(), self.shelf_musical.clone());
        Some(match method.rsplit('/').next()? {
            "RegisterMusical" => encode(musical::RegisterMusicalRequest {
                request_id,
                musical_number: i64::from(mesh::rng().random::<u32>()) + 100,
                title: "Another".to_owned(),
                venue: "Outer Park".to_owned(),
                performance_time: in_days(30),
                sales_start_time: in_days(1),
                sales_end_time: in_days(29),
                price_per_seat: won(40_000),
                total_seats: 10,
            }),
            "ChangeMusical" => encode(musical::ChangeMusicalRequest {
                request_id,
                name: shelf,
                title: "Frozen again".to_owned(),
                venue: "Outer Park".to_owned(),
                performance_time: in_days(40),
                sales_start_time: in_days(1),
                sales_end_time: in_days(39),
                price_per_seat: won(45_000),
            }),
            "WithdrawMusical" => {
                encode(musical::WithdrawMusicalRequest { request_id, name: shelf })
            }
            "GetMusical" => encode(musical::GetMusicalRequest { name }),
            "ListMusicals" => {
                encode(musical::ListMusicalsRequest { page_size: 1, ..Default::default() })
            }
            "WatchMusical" => encode(musical::WatchMusicalRequest { name }),
            "ReserveSeats" => encode(musical::ReserveSeatsRequest {
                request_id,
                reservation: new("musicalReservations"),
                musical: name,
                seats: 1,
            }),
            "ReturnSeats" => encode(musical::ReturnSeatsRequest {
                request_id,
                reservation: new("musicalReservations"),
            }),
            "Reserve" => encode(desk::ReserveRequest { request_id, musical: name, seats: 1 }),
            "QuoteCancellation" => encode(desk::QuoteCancellationRequest { name: reservation }),
            "CancelReservation" => encode(desk::CancelReservationRequest {
                request_id,
                name: to_cancel,
                ..Default::default()
            }),
            "GetReservation" => encode(desk::GetReservationRequest { name: reservation }),
            "ListReservations" => {
                encode(desk::ListReservationsRequest { page_size: 1, ..Default::default() })
            }
            "WatchReservation" => {
                encode(desk::WatchReservationRequest { name: reservation, ..Default::default() })
            }
            _ => return None,
        })
    }

    fn of_views(&self, method: &str) -> Option<Vec<u8>> {
        let (request_id, recipient) = (request_id(), self.customer.id.to_string());
        let order = self.reservations[0].clone();
        Some(match method.rsplit('/').next()? {
            "GetMyOrder" => encode(page::GetMyOrderRequest {
                name: self.applications[0].clone(),
                ..Default::default()
            }),
            "ListMyOrders" => {
                encode(page::ListMyOrdersRequest { page_size: 1, ..Default::default() })
            }
            "WatchMyOrders" => encode(page::WatchMyOrdersRequest::default()),
            "RebuildView" => encode(page::RebuildViewRequest { request_id }),
            "SendNotice" => encode(told::SendNoticeRequest {
                request_id,
                recipient,
                order: new("musicalReservations"),
                kind: "cancelled".to_owned(),
                parameters: [("title".to_owned(), "Frozen".to_owned())].into(),
                unless_kinds: vec!["expired".to_owned()],
            }),
            "ListNotices" => {
                encode(told::ListNoticesRequest { page_size: 1, order, ..Default::default() })
            }
            "WatchNotices" => encode(told::WatchNoticesRequest::default()),
            _ => return None,
        })
    }
}

fn of_the_kit(method: &str) -> Option<Vec<u8>> {
    let context = "homemovie.app".to_owned();
    let page_size = 1;
    Some(match method.rsplit('/').next()? {
        "Subscribe" => encode(kit::SubscribeRequest {
            source: "payment".to_owned(),
            policy: "mypage/a_test".to_owned(),
            partitions: vec![3],
            ..Default::default()
        }),
        "ListParkedEvents" => {
            encode(kit::ListParkedEventsRequest { context, page_size, ..Default::default() })
        }
        "ReplayParkedEvents" => encode(kit::ReplayParkedEventsRequest {
            request_id: request_id(),
            policy: "homemovie.movie/whenever_movie_picked".to_owned(),
            subject: new("movieApplications"),
        }),
        "TrimLog" => encode(kit::TrimLogRequest {
            request_id: request_id(),
            context,
            before: Some(std::time::SystemTime::UNIX_EPOCH.into()),
            forget: vec!["mypage/whenever_never".to_owned()],
            validate_only: false,
        }),
        "ListIntents" => {
            encode(kit::ListIntentsRequest { context, page_size, ..Default::default() })
        }
        "ListPolicies" => {
            encode(kit::ListPoliciesRequest { context, page_size, ..Default::default() })
        }
        "ListEdges" => encode(kit::ListEdgesRequest { context, page_size, ..Default::default() }),
        "BackUp" => {
            encode(kit::BackUpRequest { request_id: request_id(), name: mesh::uuid().to_string() })
        }
        _ => return None,
    })
}

fn encode(request: impl prost::Message) -> Vec<u8> {
    request.encode_to_vec()
}

/// The name of something that nobody has heard of.
pub fn new(collection: &str) -> String {
    format!("{collection}/{}", mesh::uuid())
}
