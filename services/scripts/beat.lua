-- A worker's sign of life: renews the lease, records progress, says whether to go on.
-- KEYS: job, running, events, previews
-- ARGV: id, fence, lease ms, progress as JSON or '', preview step or '', preview file, ttl s,
--   checkpoint file or ''
-- Returns 'ok', 'cancel' or 'lost'.
-- Redis without memory refuses a script at its first write that takes some: begin with another
redis.call('HDEL', KEYS[1], '-')
if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[2]
  or redis.call('HGET', KEYS[1], 'status') ~= 'running' then return 'lost' end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'lease_ms', now + ARGV[3])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
if ARGV[4] ~= '' then
  redis.call('HSET', KEYS[1], 'progress', ARGV[4])
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', 500, '*', 'event', 'progress', 'data', ARGV[4])
end
if ARGV[5] ~= '' then
  redis.call('HSET', KEYS[1], 'preview_step', ARGV[5])
  redis.call('HSET', KEYS[4], ARGV[5], ARGV[6])
  redis.call('EXPIRE', KEYS[4], ARGV[7])
  local data = cjson.encode({step = tonumber(ARGV[5]),
    url = '/v1/jobs/' .. ARGV[1] .. '/previews/' .. ARGV[5]})
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', 500, '*', 'event', 'preview', 'data', data)
end
if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'checkpoint', ARGV[8]) end
if redis.call('HEXISTS', KEYS[1], 'cancel') == 1 then return 'cancel' end
return 'ok'
