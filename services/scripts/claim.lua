-- Give a job to one worker: only if it waits, or if its last worker's lease has ended.
-- KEYS: job, queued, running, events
-- ARGV: id, worker, lease ms, most attempts
-- Returns the fence that every later write must show, or 0 if there is nothing to claim.
local status = redis.call('HGET', KEYS[1], 'status')
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if status == 'running' then
  if tonumber(redis.call('HGET', KEYS[1], 'lease_ms')) > now then return 0 end
elseif status ~= 'queued' then
  return 0
end
if tonumber(redis.call('HGET', KEYS[1], 'attempts')) >= tonumber(ARGV[4]) then return 0 end
local fence = redis.call('HINCRBY', KEYS[1], 'fence', 1)
redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('HSETNX', KEYS[1], 'started_ms', now)
redis.call('HSET', KEYS[1], 'status', 'running', 'worker', ARGV[2], 'lease_ms', now + ARGV[3])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[3], now + ARGV[3], ARGV[1])
redis.call('XADD', KEYS[4], 'MAXLEN', '~', 500, '*', 'event', 'status',
  'data', cjson.encode({status = 'running'}))
return fence
