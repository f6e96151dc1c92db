-- Of mlc (deployments/http/haproxy.py). While no ingress is up, HAProxy holds photos, at the price of a
-- connection each. A reload names the new ingress to a new process. This one then sends what it
-- holds there, through the port that the new one listens on.

local HOLD_S = 10
local LOOK_MS = 50
local HOLDS_UNTIL = "x-mlc-holds-until"

local served, stopping = true, false

local function is_served()
    for name, backend in pairs(core.backends) do
        if string.sub(name, 1, 4) ~= "grpc" then
            for _, server in pairs(backend.servers) do
                local stats = server:get_stats()
                if stats.act == 1 and string.sub(stats.status, 1, 2) == "UP" then
                    return true
                end
            end
        end
    end
    return false
end

core.register_task(function()
    while true do
        served = is_served()
        stopping = core.get_info().Stopping == 1
        core.msleep(LOOK_MS)
    end
end)

local function now_s()
    local now = core.now()
    return now.sec + now.usec / 1e6
end

-- Waits until an ingress is up, another process takes the photo, or HOLD_S are over.
core.register_action("hold", { "http-req" }, function(txn)
    local ends_s = math.min(tonumber(txn.sf:req_hdr(HOLDS_UNTIL)) or math.huge, now_s() + HOLD_S)
    -- "served" is cheap, and up to LOOK_MS old.
    while not (served and is_served()) and not stopping and now_s() < ends_s do
        core.msleep(LOOK_MS)
    end
    txn.http:req_set_header(HOLDS_UNTIL, tostring(ends_s))
end)
