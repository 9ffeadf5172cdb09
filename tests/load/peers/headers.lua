core.register_action("edit_request", { "http-req" }, function(txn)
    txn.http:req_set_header("X-Served-For", "bench")
end)

core.register_action("edit_response", { "http-res" }, function(txn)
    txn.http:res_set_header("X-Frame-Options", "DENY")
end)
