-- What all scripts share; it stands in front of each. Jobs, queues and outbox live under these keys.
local JOB, QUEUED, ACTIVE = 'lantern:job:', 'lantern:jobs:queued:', 'lantern:jobs:active:'
local RUNNING, DEADLINES = 'lantern:jobs:running', 'lantern:jobs:deadlines'
local ALL, ENDED = 'lantern:jobs:all:', 'lantern:jobs:ended'
local OUTBOX, CACHE, CLOCK = 'lantern:outbox', 'lantern:cache:', 'lantern:clock'
local IDEMPOTENCY, KEPT = 'lantern:idempotency:', 'lantern:kept:'
local COLLECTION, COLLECTIONS = 'lantern:collection:', 'lantern:collections:'
local LANES = {'fast', 'jobs'}
local PARTS = {'', ':events', ':previews', ':deliveries', ':owner'}

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function get(id, field) return redis.call('HGET', JOB .. id, field) end

-- Redis without memory refuses a script at its first write that takes some. What is under way must
-- still be able to end, so such a script begins with a write that takes none.
local function go_on_without_memory() redis.call('HDEL', JOB .. '-', '-') end

local function tell(id, event, json)
  redis.call('XADD', JOB .. id .. ':events', 'MAXLEN', '~', 500, '*', 'event', event, 'data', json)
end

-- What is kept of an owner: the bytes of each result and upload by its name, those of all of them, and
-- when each ends.
local function forget(owner, name)
  local bytes = redis.call('HGET', KEPT .. owner, name)
  if not bytes then return end
  redis.call('HDEL', KEPT .. owner, name)
  redis.call('ZREM', KEPT .. owner .. ':ends', name)
  if redis.call('HINCRBY', KEPT .. owner, 'all', -bytes) == 0 then redis.call('DEL', KEPT .. owner) end
end

local function kept(owner, at)
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEPT .. owner .. ':ends', '-inf', at)) do
    forget(owner, name)
  end
  return tonumber(redis.call('HGET', KEPT .. owner, 'all') or 0)
end

local function keep(owner, name, bytes, ttl_s, at)
  forget(owner, name)
  if tonumber(bytes) == 0 then return end
  redis.call('HSET', KEPT .. owner, name, bytes)
  redis.call('HINCRBY', KEPT .. owner, 'all', bytes)
  redis.call('ZADD', KEPT .. owner .. ':ends', at + ttl_s * 1000, name)
  for _, part in ipairs({'', ':ends'}) do redis.call('EXPIRE', KEPT .. owner .. part, ttl_s) end
end

-- Take a job out of every list of jobs that wait or run.
local function withdraw(id)
  for _, lane in ipairs(LANES) do redis.call('ZREM', QUEUED .. lane, id) end
  redis.call('ZREM', RUNNING, id)
end

local function enter(id, status)
  redis.call('HSET', JOB .. id, 'status', status)
  tell(id, 'status', cjson.encode({status = status}))
end

-- Let a job wait; the order puts urgent jobs ahead of what came up to an hour before them. One that
-- was begun goes ahead of all that were not, and one that was cut off ahead of these.
local function enqueue(id, is_cut_off)
  withdraw(id)
  local order = tonumber(get(id, 'order'))
  if tonumber(get(id, 'attempts')) > 0 then order = order - 24 * 3600 * 1000 end
  if is_cut_off then order = order - 24 * 3600 * 1000 end
  redis.call('ZADD', QUEUED .. get(id, 'lane'), order, id)
  enter(id, 'queued')
end

-- Give a job its one final state: nothing changes it after this.
local function finalise(id, status, ttl_s, at)
  withdraw(id)
  redis.call('ZREM', DEADLINES, id)
  redis.call('ZREM', ACTIVE .. get(id, 'owner'), id)
  redis.call('HDEL', JOB .. id, 'wish', 'release')
  redis.call('HSET', JOB .. id, 'status', status, 'finished_ms', at, 'expires_ms', at + ttl_s * 1000)
  tell(id, 'done', cjson.encode({status = status}))
  redis.call('ZADD', ENDED, at, id)
  for _, part in ipairs(PARTS) do redis.call('EXPIRE', JOB .. id .. part, ttl_s) end
  -- it outlives the record, so that its caller is told that the result is gone, not that none was
  redis.call('SET', JOB .. id .. ':owner', get(id, 'owner'), 'EX', 2 * ttl_s)
  local key = get(id, 'idempotency')
  if key then redis.call('EXPIRE', IDEMPOTENCY .. key, ttl_s) end
  local name = get(id, 'cache')
  if status == 'succeeded' and name then redis.call('SET', CACHE .. name, id, 'EX', ttl_s) end
  if redis.call('HEXISTS', JOB .. id, 'webhook') == 1 then redis.call('ZADD', OUTBOX, at, id) end
end

local function fail(id, code, title, detail, ttl_s, at, status)
  redis.call('HSET', JOB .. id, 'error', cjson.encode(
    {type = '/problems/' .. code, title = title, detail = detail, retryable = false}))
  finalise(id, status or 'failed', ttl_s, at)
end

local function expire(id, ttl_s, at)
  fail(id, 'deadline', 'Deadline', 'its deadline passed before it was done', ttl_s, at, 'expired')
end

local function is_late(id, at)
  local deadline = get(id, 'deadline_ms')
  return deadline and tonumber(deadline) <= at
end

-- Tell whether a worker still holds a job by the fence it was given.
local function holds(id, fence)
  return get(id, 'fence') == fence and get(id, 'status') == 'running'
end

-- Name the set of the messages that couriers have in hand for the receiver of a job's.
local function in_hand(id)
  local url = cjson.decode(get(id, 'webhook')).url
  return OUTBOX .. ':' .. string.lower(string.match(url, '^%a+://([^/?#]*)') or url)
end

-- Let a collection end a while from now, and its owner's list of names not before it.
local function keep_collection(id, ttl_s)
  local key = COLLECTION .. id
  local index = COLLECTIONS .. redis.call('HGET', key, 'owner')
  redis.call('HSET', key, 'expires_ms', now() + ttl_s * 1000)
  redis.call('EXPIRE', key, ttl_s)
  if redis.call('TTL', index) < ttl_s then redis.call('EXPIRE', index, ttl_s) end
end
