function served() {
    return "bench";
}

function response(r) {
    r.headersOut["X-Frame-Options"] = "DENY";
}

export default { served, response };
