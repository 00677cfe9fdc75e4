"""A customer from another language: buys and watches a film with nothing but grpcio and what reflection tells.

    python foreign_client.py 127.0.0.1:8088

Nothing of this workspace is imported and no code is generated, so that what works here works for anybody. Prints a
line for each step, and ends with status 1 at the first thing that is not as the contracts say.
Needs grpcio, grpcio-reflection, googleapis-common-protos and protobuf.
"""

import sys
import time
import uuid

import grpc
from google.protobuf import descriptor_pool, message_factory
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

IDENTITY = "turnstile.identity.v1.IdentityService"
PAYMENT = "turnstile.payment.v1.PaymentService"
MYPAGE = "turnstile.mypage.v1.MyPageService"
APPLICATIONS = "turnstile.homemovie.app.v1.MovieApplicationService"
MOVIES = "turnstile.homemovie.movie.v1.MovieService"
HEALTH = "grpc.health.v1.Health"

CALL_LIMIT_S = 10
EVENT_LIMIT_S = 30


class Wrong(Exception):
    """The server did something that it should not have."""


def check(holds, complaint):
    if not holds:
        raise Wrong(complaint)


def said(step, seen):
    print(f"{step:<28} {seen}", flush=True)


def until(limit_s, what, attempt):
    """Repeats an attempt until it answers with something; each waits a little longer than the one before."""
    end, pause = time.monotonic() + limit_s, 0.02
    while time.monotonic() < end:
        if (seen := attempt()) is not None:
            return seen
        time.sleep(pause)
        pause = min(pause * 2, 0.5)
    raise Wrong(f"{what}: not within {limit_s} s")


def state_of(message):
    """The state of a resource in the words of the domain: MOVIE_ORDERED."""
    values = message.DESCRIPTOR.fields_by_name["state"].enum_type.values_by_number
    check(message.state in values, f"{message.name} has state {message.state}, which its contract does not know")
    return values[message.state].name.removeprefix("STATE_")


class Refusal:
    """What a server said instead of an answer, with its google.rpc details."""

    def __init__(self, error):
        self.code, self.message = error.code(), error.details()
        self.info, self.bad_fields = error_details_pb2.ErrorInfo(), set()
        trailers = {key: value for key, value in error.trailing_metadata() or ()}
        for detail in status_pb2.Status.FromString(trailers.get("grpc-status-details-bin", b"")).details:
            detail.Unpack(self.info)
            bad_request = error_details_pb2.BadRequest()
            if detail.Unpack(bad_request):
                self.bad_fields = {violation.field for violation in bad_request.field_violations}

    def must_be(self, code, reason=None, domain=None):
        check(self.code == code, f"expected {code.name}, was refused with {self}")
        check(reason in (None, self.info.reason), f"expected the reason {reason}, was refused with {self}")
        check(domain in (None, self.info.domain), f"expected the domain {domain}, was refused with {self}")
        return self

    def __str__(self):
        return f"{self.code.name} {self.info.domain}/{self.info.reason}: {self.message}"


class Server:
    """The services of one server, known by reflection alone."""

    def __init__(self, target):
        self.channel = grpc.insecure_channel(target)
        self.reflection = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = descriptor_pool.DescriptorPool(self.reflection)
        self.token = None

    def services(self):
        return sorted(self.reflection.get_services())

    def call(self, service, method, /, signed_in=True, **fields):
        """Calls a method. A server stream comes back as an iterator that ends with an error after its limit."""
        found = self.pool.FindServiceByName(service).methods_by_name.get(method)
        check(found is not None, f"reflection knows {service}, but no {method} in it")
        request = message_factory.GetMessageClass(found.input_type)(**fields)
        response = message_factory.GetMessageClass(found.output_type)
        kind = self.channel.unary_stream if found.server_streaming else self.channel.unary_unary
        invoke = kind(f"/{service}/{method}", lambda message: message.SerializeToString(), response.FromString)
        metadata = [("authorization", f"Bearer {self.token}")] if signed_in and self.token else []
        limit_s = EVENT_LIMIT_S if found.server_streaming else CALL_LIMIT_S
        return invoke(request, timeout=limit_s, metadata=metadata)

    def refusal(self, service, method, /, **fields):
        try:
            answer = self.call(service, method, **fields)
        except grpc.RpcError as error:
            return Refusal(error)
        raise Wrong(f"{method} should have been refused, and answered {answer}")


def new_request():
    return str(uuid.uuid4())


def meet(server):
    try:
        grpc.channel_ready_future(server.channel).result(timeout=CALL_LIMIT_S)
    except grpc.FutureTimeoutError:
        raise Wrong("nobody listens there") from None
    known = server.services()
    for service in (IDENTITY, PAYMENT, MYPAGE, APPLICATIONS, MOVIES, HEALTH):
        check(service in known, f"reflection does not list {service}, only {known}")
    said("reflection", f"{len(known)} services")

    for name in ("", "homemovie.app"):
        health = server.call(HEALTH, "Check", service=name)
        status = health.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_number[health.status].name
        check(status == "SERVING", f"the health of {name!r} is {status}")
        said(f"health of {name!r}", status)


def sign_in(server):
    who = {"email": f"{uuid.uuid4().hex}@example.org", "password": uuid.uuid4().hex}
    account = server.call(IDENTITY, "SignUp", display_name="A foreign client", **who).account
    check(account.email == who["email"], f"signed up as {who['email']}, and became {account.email}")
    said("SignUp", account.name)

    signed_in = server.call(IDENTITY, "SignIn", **who)
    check(signed_in.account.name == account.name, f"signed in as {signed_in.account.name}, who is {account.name}")
    check(signed_in.tokens.access_token, "signed in without an access token")
    server.token = signed_in.tokens.access_token
    said("SignIn", f"a token of {len(server.token)} characters")


def pick(server):
    films = server.call(MOVIES, "ListMovies", signed_in=False).movies
    check(films, "the catalogue is empty")
    film = films[0]
    said("ListMovies", f"{len(films)} films, the first is {film.title} ({film.name})")

    def attempt():
        # The application desk hears of a new film by an event, and may not have heard of it yet.
        fields = {"movie": film.name, "request_id": new_request()}
        try:
            return fields, server.call(APPLICATIONS, "PickMovie", **fields).movie_application
        except grpc.RpcError as error:
            Refusal(error).must_be(grpc.StatusCode.NOT_FOUND)
            return None

    fields, application = until(EVENT_LIMIT_S, "PickMovie", attempt)
    check(application.movie == film.name, f"picked {film.name}, got {application.movie}")
    check(application.price == film.price, f"picked for {film.price}, got {application.price}")
    again = server.call(APPLICATIONS, "PickMovie", **fields).movie_application
    check(again.name == application.name, f"the same request made {application.name} and {again.name}")
    said("PickMovie, twice", f"one application, {application.name}")
    return application.name


def watch(server, application):
    stream = server.call(APPLICATIONS, "WatchMovieApplication", name=application)
    states = follow(stream, application)
    for state, final in states:
        check(not final, f"the application ended at {state} before the film was watched")
        said("WatchMovieApplication", state)
        if state == "MOVIE_ORDERED":
            break
    else:
        raise Wrong("the stream ended before MOVIE_ORDERED")

    watched = server.call(MOVIES, "WatchMovie", movie_application=application, request_id=new_request())
    check(state_of(watched.movie_purchase) == "MOVIE_WATCHED", f"watched, and it is {state_of(watched.movie_purchase)}")
    said("WatchMovie", f"{watched.movie_purchase.name} is {state_of(watched.movie_purchase)}")

    rest = list(states)
    check(rest, "the stream ended without another state")
    check(rest[-1] == ("MOVIE_WATCHED", True), f"the stream should end with a final MOVIE_WATCHED, and brought {rest}")
    said("WatchMovieApplication", "MOVIE_WATCHED, final, and the stream ended")


def follow(stream, application):
    for answer in stream:
        if answer.HasField("movie_application"):  # Without one it is a heartbeat.
            check(answer.movie_application.name == application, f"followed {application}, got {answer}")
            yield state_of(answer.movie_application), answer.final


def provoke(server, application):
    refusal = server.refusal(APPLICATIONS, "CancelMovieApplication", name=application, request_id=new_request())
    refusal.must_be(grpc.StatusCode.FAILED_PRECONDITION, reason="ALREADY_WATCHED", domain="homemovie.app")
    named = refusal.info.metadata.get("movie_application")
    check(named == application, f"the refusal should name {application}, and names {named}")
    said("cancel what was watched", refusal)

    refusal = server.refusal(APPLICATIONS, "PickMovie", movie="films/none", request_id="not a UUID")
    refusal.must_be(grpc.StatusCode.INVALID_ARGUMENT)
    check(refusal.bad_fields == {"movie", "request_id"}, f"both bad fields should be named, not {refusal.bad_fields}")
    said("pick with bad fields", f"{refusal.code.name} {sorted(refusal.bad_fields)}")

    refusal = server.refusal(MYPAGE, "ListMyOrders", signed_in=False)
    said("call without a token", refusal.must_be(grpc.StatusCode.UNAUTHENTICATED))

    refusal = server.refusal(PAYMENT, "Pay", order=application, request_id=new_request())
    said("pay with a customer's token", refusal.must_be(grpc.StatusCode.UNIMPLEMENTED))


def see_my_page(server, application):
    def attempt():
        mine = server.call(MYPAGE, "ListMyOrders").my_orders
        check(all(order.name == application for order in mine), f"one order was made, mypage lists {mine}")
        return next((order for order in mine if order.state == "MOVIE_WATCHED"), None)

    order = until(EVENT_LIMIT_S, "mypage shows MOVIE_WATCHED", attempt)
    check(order.payment_state == "APPROVED", f"mypage shows the payment as {order.payment_state!r}")
    said("ListMyOrders", f"{order.title}: {order.state}, payment {order.payment_state}")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    server = Server(sys.argv[1])
    try:
        meet(server)
        sign_in(server)
        application = pick(server)
        watch(server, application)
        provoke(server, application)
        see_my_page(server, application)
    except Wrong as wrong:
        sys.exit(f"WRONG: {wrong}")
    except grpc.RpcError as error:
        sys.exit(f"WRONG: an unexpected refusal, {Refusal(error)}")


if __name__ == "__main__":
    main()
